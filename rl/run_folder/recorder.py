"""The run folder: metrics, samples, environment and the resolved recipe, and one console line per step."""

import contextlib
import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from redraft.rewards.result import SampleScore
from redraft.rewards.scoring.mixture import Sample
from redraft.rl.config.recipe import dump_recipe
from redraft.rl.config.schema import RunConfig
from redraft.rl.run_folder.files import RESOLVED, append_line, step_number, write_whole, writing
from redraft.rl.run_folder.mirror import Mirror
from redraft.rollout.trajectory import Completion

PACKAGES = ("redraft", "torch", "transformers", "trl", "ray", "accelerate", "datasets", "math-verify", "pydantic")


@runtime_checkable
class Display(Protocol):
    """Where progress is shown."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of one optimizer step or evaluation."""
        ...

    def say(self, text: str) -> None:
        """Something good to know."""
        ...

    def warn(self, text: str) -> None:
        """Something that a person should look at; the run goes on."""
        ...


class Recorder:
    """Writes one run folder; always on, trackers are mirrors. Making one writes nothing: a run may yet be refused."""

    def __init__(self, config: RunConfig, display: Display, trackers: Sequence[Mirror] = ()) -> None:
        self.run = Path(config.output_dir)
        self.config, self.display, self.trackers = config, display, trackers

    def begin(self) -> None:
        """Make the run folder and say in it what runs here, once nothing speaks against the run."""
        with writing(self.run):
            self.run.mkdir(parents=True, exist_ok=True)
        write_whole(self.run / RESOLVED, dump_recipe(self.config))
        write_whole(self.run / "env.json", json.dumps(environment(), indent=1))

    def close(self) -> None:
        """Let the trackers send what they still hold; to be called however the run ended."""
        for tracker in self.trackers:
            tracker.close()

    def rewind(self, step: int, unwritten: Sequence[tuple[str, int, Mapping[str, float]]] = ()) -> None:
        """Forget what a killed run wrote after its last checkpoint, so that no step appears twice.

        Args:
            step: Of the checkpoint; 0: the run starts, only the warm start stays.
            unwritten: Rows (stage, step, values) that the checkpoint keeps because there was no room for them.
        """
        seen, kept = self._keep_rows(lambda row: _is_before(row, step))
        there = {(row["stage"], row["step"]) for row in kept}
        for row in unwritten:
            if row[:2] not in there:
                kept.append(self._append(*row))
        for sample in (self.run / "samples").glob("step_*.jsonl"):
            number = step_number(sample.name, ".jsonl")
            if number is not None and number > step:
                sample.unlink()
        for tracker in self.trackers:
            tracker.rewind(step, seen, kept)

    def drop_stage(self, stage: str) -> None:
        """Forget a stage that is made anew."""
        self._keep_rows(lambda row: row["stage"] != stage)

    def _keep_rows(self, wanted: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """All rows of metrics.jsonl, and those that stay in it."""
        path = self.run / "metrics.jsonl"
        if not path.is_file():
            return [], []
        rows = [row for line in path.read_text().splitlines() if (row := _parse(line))]
        kept = [row for row in rows if wanted(row)]
        write_whole(path, "".join(f"{json.dumps(row)}\n" for row in kept))
        return rows, kept

    def _append(self, stage: str, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        row = {"step": step, "stage": stage, **values}
        append_line(self.run / "metrics.jsonl", json.dumps(row))
        return row

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row to metrics.jsonl and show it.

        Raises:
            WriteError: There is no room; nothing of the row is in the file.
        """
        self._append(stage, step, values)
        # Trackers have one step axis, on which the warm start's steps would stand in the way of the first RL steps.
        for tracker in self.trackers if stage != "sft" else ():
            tracker.log(stage, dict(values), step)
        self._show("step", stage, step, values)

    def say(self, text: str) -> None:
        """Show what is good to know."""
        self._show("say", text)

    def warn(self, text: str) -> None:
        """Show what a person should look at."""
        self._show("warn", text)

    def _show(self, method: str, *arguments: object) -> None:
        """A terminal that was closed, or a full disk behind a redirection, is no reason to lose a run."""
        with contextlib.suppress(OSError):
            getattr(self.display, method)(*arguments)

    def samples(
        self, step: int, samples: Sequence[Sample], completions: Sequence[Completion], scored: Sequence[SampleScore]
    ) -> None:
        """Write the step's completions as readable rows.

        Raises:
            WriteError: There is no room; no half file is left.
        """
        folder = self.run / "samples"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        lines = [
            json.dumps(_sample_row(sample, completion, score), default=str)
            for sample, completion, score in zip(samples, completions, scored, strict=True)
        ]
        write_whole(folder / f"step_{step:06d}.jsonl", "".join(f"{line}\n" for line in lines), durable=False)


def environment() -> dict[str, Any]:
    """Versions and machine, for the first question of every bug report."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"python": sys.version.split()[0], "platform": platform.platform(), "argv": sys.argv, "versions": versions}


def _sample_row(sample: Sample, completion: Completion, score: SampleScore) -> dict[str, Any]:
    return {
        **sample.columns,
        "prompt": sample.prompt,
        "completion": sample.completion,
        "reward": score.total,
        "unshaped": score.unshaped,
        "parts": score.parts,
        "status": score.status,
        "detail": score.detail,
        "reward_ms": {name: verdict.ms for name, verdict in score.verdicts.items()},
        "finish_reason": completion.finish_reason,
        "num_forwards": completion.num_forwards,
        "num_edits": completion.trace.num_edits,
        "policy_version": completion.policy_version,
    }


def _parse(line: str) -> dict[str, Any] | None:
    """A row; None for the line that a kill cut short, and for what somebody else wrote."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and {"stage", "step"} <= row.keys() else None


def _is_before(row: Mapping[str, Any], step: int) -> bool:
    # The evaluation before step `step + 1` is made again by the resumed run.
    return row["stage"] == "sft" or row["step"] < step or (row["step"] == step and row["stage"] == "train")
