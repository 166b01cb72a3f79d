"""The `redraft` command. Verbs import their work when they run, so `--help` stays instant."""

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from redraft.rl.cli.evaluate import evaluate
from redraft.rl.cli.export import export
from redraft.rl.cli.generate import generate
from redraft.rl.cli.reward import app as reward
from redraft.rl.cli.train import sft, train
from redraft.rl.preflight.launcher import forget_launcher

EXPECTED = {
    *("RewardError", "ClusterError", "WeightSyncError", "RayError"),
    *("OutOfMemoryError", "CollapseError", "VLLMMissingError", "RunLockedError"),
}


class Verbs(TyperGroup):
    """The verbs; an interrupted one says so."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb of this command line."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if "NoSuchOption" in _kinds(error) and ctx.invoked_subcommand in {"train", "sft", "eval"}:
                _explain_option(error)
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="redraft",
    cls=Verbs,
    help="RL post-training for diffusion language models that edit their own drafts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would take longer to import than all the rest of --help
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(sft)
app.command(name="eval")(evaluate)
app.command()(generate)
app.command()(export)
app.add_typer(reward)


def main() -> None:
    """The command `redraft`."""
    run_app(app, "redraft")


def run_app(app: typer.Typer, name: str) -> None:
    """Run a verb; expected mistakes become one line, REDRAFT_DEBUG=1 shows where they come from."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # AutoTokenizer warns that it does not know our model
    forgotten = forget_launcher(os.environ)
    if forgotten and "--help" not in sys.argv:
        typer.echo(f"ignoring {', '.join(forgotten)} of another launcher: redraft is one process", err=True)
    sys.path.append(os.getcwd())  # so that `my_rewards:function` beside the user is found
    try:
        app(prog_name=name)
    except Exception as error:
        cause = _root(error)
        if os.environ.get("REDRAFT_DEBUG") or not _is_expected(cause):
            raise
        notes = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        typer.secho(f"error: {cause}{notes}", fg="red", err=True)
        sys.exit(1)


def _explain_option(error: Any) -> None:
    """Other programs take settings as options."""
    if not error.possibilities:
        key = error.option_name.lstrip("-").replace("-", "_")
        error.message += f"; keys of a recipe are written without dashes: {key}=VALUE"


def _root(error: Exception) -> Exception:
    """What failed in a remote task, without the remote traceback that Ray makes its message."""
    return error.cause if "RayTaskError" in _kinds(error) else error  # pyright: ignore[reportAttributeAccessIssue]


def _is_expected(error: Exception) -> bool:
    """Mistakes in input, rewards and environment carry a full message; anything else is a bug and keeps its trace."""
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or bool(EXPECTED & _kinds(error))


def _kinds(error: Exception) -> set[str]:
    """Names of an error's classes: importing the classes themselves would cost --help seconds."""
    return {kind.__name__ for kind in type(error).__mro__}


if __name__ == "__main__":
    main()
