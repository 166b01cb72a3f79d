"""The `redraft` command. Verbs import their work when they run, so `--help` stays instant."""

import os
import sys

import typer

from rl.cli.evaluate import evaluate
from rl.cli.export import export
from rl.cli.generate import generate
from rl.cli.train import sft, train

app = typer.Typer(
    name="redraft",
    help="RL post-training for diffusion language models that edit their own drafts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(sft)
app.command(name="eval")(evaluate)
app.command()(generate)
app.command()(export)


def main() -> None:
    """Run a verb; expected mistakes become one line, REDRAFT_DEBUG=1 shows where they come from."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # AutoTokenizer warns that it does not know our model
    sys.path.append(os.getcwd())  # so that `my_rewards:function` beside the user is found
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("REDRAFT_DEBUG") or not _is_expected(error):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)


def _is_expected(error: Exception) -> bool:
    """Mistakes in input, rewards and environment carry a full message; anything else is a bug and keeps its trace."""
    names = {"RewardError", "ClusterError", "WeightSyncError"}
    return isinstance(error, (ValueError, OSError)) or any(kind.__name__ in names for kind in type(error).__mro__)


if __name__ == "__main__":
    main()
