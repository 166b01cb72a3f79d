"""The `redraft` command. Verbs import their work when they run, so `--help` stays instant."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from redraft.rl.cli.doctor import doctor
from redraft.rl.cli.evaluate import evaluate
from redraft.rl.cli.export import export
from redraft.rl.cli.generate import generate
from redraft.rl.cli.plan import plan
from redraft.rl.cli.recipes import app as recipes
from redraft.rl.cli.reward import app as reward
from redraft.rl.cli.train import sft, train
from redraft.rl.process import prepared_process

EXPECTED = {
    *("RewardError", "ClusterError", "WeightSyncError", "RayError"),
    *("OutOfMemoryError", "CollapseError", "VLLMMissingError", "RunLockedError"),
}


class Verbs(TyperGroup):
    """Run verbs; say so where Ctrl-C ended one."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb of this command line."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if "NoSuchOption" in _kinds(error) and ctx.invoked_subcommand in {"train", "sft", "eval", "plan"}:
                _explain_option(error)
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="redraft",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take longer to import than all the rest of --help
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(sft)
app.command(name="eval")(evaluate)
app.command()(plan)
app.command()(doctor)
app.command()(generate)
app.command()(export)
app.add_typer(reward)
app.add_typer(recipes)


def _show_version(asked: bool) -> bool:
    if not asked:
        return False
    from redraft import __version__

    typer.echo(f"redraft {__version__}")
    raise typer.Exit


@app.callback()
def redraft(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """RL post-training for diffusion language models that edit their own drafts."""


def main() -> None:
    """Run the command `redraft`."""
    run_app(app, "redraft")


def run_app(app: typer.Typer, name: str) -> None:
    """Run a verb; an expected mistake becomes one line, and with REDRAFT_DEBUG=1 its traceback too."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # they would tear ours
    try:
        with prepared_process(_say):
            app(prog_name=name)
    except Exception as error:
        cause = _root(error)
        if os.environ.get("REDRAFT_DEBUG") or not _is_expected(cause):
            raise
        notes = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        typer.secho(f"error: {cause}{notes}", fg="red", err=True)
        sys.exit(1)


def _say(text: str) -> None:
    """Print a line about the process, unless only the help is asked for."""
    if "--help" not in sys.argv:
        typer.echo(text, err=True)


def _explain_option(error: Any) -> None:
    """Add to the error how a key of a recipe is written, since other programs take settings as options."""
    if not error.possibilities:
        key = error.option_name.lstrip("-").replace("-", "_")
        error.message += f"; keys of a recipe are written without dashes: {key}=VALUE"


def _root(error: Exception) -> Exception:
    """Return the error of a remote task itself; Ray's wrapper has the remote traceback as its message."""
    return error.cause if "RayTaskError" in _kinds(error) else error  # pyright: ignore[reportAttributeAccessIssue]


def _is_expected(error: Exception) -> bool:
    """Decide whether an error is a mistake in input, reward or environment; any other is a bug and keeps its trace."""
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or bool(EXPECTED & _kinds(error))


def _kinds(error: Exception) -> set[str]:
    """Return the names of an error's classes; importing the classes themselves would cost --help seconds."""
    return {kind.__name__ for kind in type(error).__mro__}


if __name__ == "__main__":
    main()
