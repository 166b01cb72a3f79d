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
from redraft.rl.run_folder.files import ORIGIN, RESOLVED, Origin, append_line, step_number, write_whole, writing
from redraft.rl.run_folder.mirror import Mirror
from redraft.rollout.trajectory import Completion

PACKAGES = ("redraft", "torch", "transformers", "trl", "ray", "accelerate", "datasets", "math-verify", "pydantic")


@runtime_checkable
class Display(Protocol):
    """Where progress is shown: a terminal, or nothing."""

    def step(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of one batch or evaluation."""
        ...

    def say(self, text: str) -> None:
        """Show a line of information."""
        ...

    def warn(self, text: str) -> None:
        """Show a warning; the run goes on."""
        ...


class Recorder:
    """Write one run folder. Making a recorder writes nothing, as the run may still be refused; `begin` does."""

    def __init__(self, config: RunConfig, display: Display, trackers: Sequence[Mirror] = ()) -> None:
        self.run = Path(config.output_dir)
        self.config, self.display, self.trackers = config, display, trackers
        self.origin: Origin | None = None

    def settle(self, config: RunConfig, origin: Origin | None) -> None:
        """Take over the recipe with the commit of its first policy, and where that came from, for `begin` to write."""
        self.config, self.origin = config, origin

    def begin(self) -> None:
        """Make the run folder, with the recipe and the environment in it."""
        with writing(self.run):
            self.run.mkdir(parents=True, exist_ok=True)
        write_whole(self.run / RESOLVED, dump_recipe(self.config))
        if self.origin is not None:
            write_whole(self.run / ORIGIN, json.dumps(self.origin, indent=1))
        write_whole(self.run / "env.json", json.dumps(environment(), indent=1))

    def close(self) -> None:
        """End the runs of the trackers; to be called however the run ended."""
        for tracker in self.trackers:
            tracker.close()

    def rewind(self, step: int, unwritten: Sequence[tuple[str, int, Mapping[str, float]]] = ()) -> None:
        """Remove what a killed run wrote after its last checkpoint, so that no step appears twice.

        Args:
            step: Of the checkpoint. At 0 only the metrics of the warm start stay.
            unwritten: Metrics (stage, step, values) that the checkpoint keeps because the disk was full.
        """
        seen, kept = self._keep(lambda entry: _is_before(entry, step))
        there = {(entry["stage"], entry["step"]) for entry in kept}
        for entry in unwritten:
            if entry[:2] not in there:
                kept.append(self._append(*entry))
        for sample in (self.run / "samples").glob("step_*.jsonl"):
            number = step_number(sample.name, ".jsonl")
            if number is not None and number > step:
                sample.unlink()
        for tracker in self.trackers:
            tracker.rewind(step, seen, kept)

    def drop_stage(self, stage: str) -> None:
        """Remove the metrics of a stage that is made anew."""
        self._keep(lambda entry: entry["stage"] != stage)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rewrite metrics.jsonl with what is wanted; return what was in it, and what stays."""
        path = self.run / "metrics.jsonl"
        if not path.is_file():
            return [], []
        entries = [entry for line in path.read_text().splitlines() if (entry := _parse(line))]
        kept = [entry for entry in entries if wanted(entry)]
        write_whole(path, "".join(f"{json.dumps(entry)}\n" for entry in kept))
        return entries, kept

    def _append(self, stage: str, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        entry = {"step": step, "stage": stage, **values}
        append_line(self.run / "metrics.jsonl", json.dumps(entry))
        return entry

    def metrics(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, send it to the trackers and show it.

        Raises:
            WriteError: There is no room; nothing of the line is in the file.
        """
        self._append(stage, step, values)
        # Trackers have one step axis, on which the warm start's steps would stand in the way of the first RL steps.
        for tracker in self.trackers if stage != "sft" else ():
            tracker.log(stage, dict(values), step)
        self._show("step", stage, step, values)

    def say(self, text: str) -> None:
        """Show a line of information."""
        self._show("say", text)

    def warn(self, text: str) -> None:
        """Show a warning; the run goes on."""
        self._show("warn", text)

    def _show(self, method: str, *arguments: object) -> None:
        """Call the display. A closed terminal or a full disk behind a redirection must not end the run."""
        with contextlib.suppress(OSError):
            getattr(self.display, method)(*arguments)

    def samples(
        self, step: int, samples: Sequence[Sample], completions: Sequence[Completion], scored: Sequence[SampleScore]
    ) -> None:
        """Write the completions of one batch as JSON lines.

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
    """Collect versions and machine, for bug reports."""
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
    """Parse a line of metrics, or return None where a kill cut it short or the run did not write it."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and {"stage", "step"} <= entry.keys() else None


def _is_before(entry: Mapping[str, Any], step: int) -> bool:
    # The evaluation before step `step + 1` is made again by the resumed run.
    return entry["stage"] == "sft" or entry["step"] < step or (entry["step"] == step and entry["stage"] == "train")
