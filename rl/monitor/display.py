"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and a closing table."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from redraft.rl.config.schema import RunConfig

# Console line: metric -> (label, format); in this order, left out where absent.
LINE = {
    "sft/loss": ("loss", ".4f"),
    "eval/accuracy": ("accuracy", ".1%"),
    "eval/tokens_per_forward": ("tokens/forward", ".2f"),
    "reward/mean": ("reward", ".3f"),
    "reward/zero_std_fraction": ("flat groups", ".0%"),
    "reward/masked_fraction": ("masked", ".1%"),
    "reward/timeout_fraction": ("reward timeouts", ".1%"),
    "reward/failed_fraction": ("reward failures", ".1%"),
    "completions/mean_length": ("length", ".1f"),
    "decode/tokens_per_forward": ("tokens/forward", ".2f"),
    "decode/edits_per_completion": ("edits", ".2f"),
    "objective/kl": ("kl", ".2e"),
    "objective/grad_norm": ("grad", ".3f"),
    "mismatch/log_prob_abs": ("mismatch", ".1e"),
    "time/step_s": ("s", ".2f"),
}
QUIET_AT_ZERO = {"reward/masked_fraction", "reward/timeout_fraction", "reward/failed_fraction"}
SUMMARY = {
    "eval/accuracy": ("held-out accuracy", ".1%"),
    "eval/tokens_per_forward": ("tokens per forward", ".2f"),
    "eval/edits_per_completion": ("edits per completion", ".2f"),
}
SUMMARY_OF_STEPS = {"reward/mean": ("training reward", ".3f")}
WIDE = 160  # columns of tables in files and pipes, so that numbers are not wrapped


class ConsoleDisplay:
    """One line per step; on a terminal a bar below them."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self.config, self.console, self.started = config, console, time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self.tasks = {}

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one batch or evaluation."""
        shown = [
            f"{label} {metrics[name]:{form}}"
            for name, (label, form) in LINE.items()
            if name in metrics and not (name in QUIET_AT_ZERO and metrics[name] == 0)
        ]
        total = self._total(stage)
        self._say(f"{stage:<5} {step:>5}/{total}  {'  '.join(shown)}")
        if self.console.is_terminal and stage != "eval":
            if stage not in self.tasks:
                self.tasks[stage] = self.bar.add_task(stage, total=total, completed=step)  # a resumed run starts late
            self.bar.update(self.tasks[stage], completed=step)

    def say(self, text: str) -> None:
        """Show a line of information."""
        self._say(text)

    def warn(self, text: str) -> None:
        """Show a line that asks for attention, yellow where the terminal has colours."""
        self._say(text, style="yellow")

    def _total(self, stage: str) -> int:
        return self.config.sft.max_steps if stage == "sft" and self.config.sft else self.config.trainer.total_steps

    def _say(self, line: str, style: str | None = None) -> None:
        self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def summary(self, run: Path) -> None:
        """Print the first and the last evaluation and reward of the whole run, then time and place."""
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in rows if row["stage"] == "train"]
        table = Table()
        for column in ("", "before RL", "after RL", "change"):
            table.add_column(column, justify="left" if not column else "right")
        pairs = [(SUMMARY, [row for row in rows if row["stage"] == "eval"]), (SUMMARY_OF_STEPS, steps)]
        for names, source in pairs:
            for name, (label, form) in names.items():
                values = [row[name] for row in source if name in row]
                if len(values) > 1:
                    table.add_row(label, *_before_and_after(values[0], values[-1], form))
        if table.row_count:
            self.console.print(table)
        self._say(
            f"{len(steps)} steps, {time.perf_counter() - self.started:.0f} s in this command; metrics, samples and"
            f" checkpoints in {run}"
        )


def _before_and_after(first: float, last: float, form: str) -> tuple[str, str, str]:
    change = f"{100 * (last - first):+.1f} points" if form.endswith("%") else f"{last - first:+{form}}"
    return f"{first:{form}}", f"{last:{form}}", change


@contextlib.contextmanager
def open_display(config: RunConfig) -> Iterator[ConsoleDisplay]:
    """Open the display of one command; the bar ends however the command ends."""
    display = ConsoleDisplay(config, _console())
    with contextlib.ExitStack() as live:
        if display.console.is_terminal:
            live.enter_context(display.bar)
        try:
            yield display
        finally:
            with contextlib.suppress(OSError):  # the terminal was closed
                live.close()


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on a terminal, and at most twenty-one plain lines elsewhere.

    Yields:
        The function to call with what is done and the total.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        said = -1

        def say(done: int, total: int) -> None:
            nonlocal said
            if (part := 20 * done // max(total, 1)) > said:
                said = part
                print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)

        yield say
        return
    with Progress(console=console) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def metrics_table(title: str, metrics: Mapping[str, float]) -> None:
    """Print metrics as a table of two columns."""
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4g}")
    console = _console()
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def text_table(title: str, header: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table of text; the first `left` columns are aligned left, the others right, as numbers are."""
    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(header):
        table.add_column(column, justify="left" if index < left else "right")
    for row in body:
        table.add_row(*map(escape, row))
    _console().print(table)


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    return console
