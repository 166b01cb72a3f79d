"""Read a run folder, during a run or after it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from redraft.rl.files import expand
from redraft.rl.run_folder.checkpoint import complete_checkpoints, find_policy
from redraft.rl.run_folder.files import RESOLVED, step_number
from redraft.words import guess_and_valid

if TYPE_CHECKING:
    from redraft.rl.config.schema import RunConfig

Stage = Literal["sft", "train", "eval"]


class RunFolder:
    """What a run has left so far. Every call reads the files anew, so it can watch a run that is under way.

    For example, the reward of every step, and the prompts of the last one that had none.

        run = RunFolder("runs/quickstart")
        rewards = [row["reward/mean"] for row in run.metrics("train")]
        unsolved = [row["prompt"] for row in run.samples() if row["reward"] == 0]

    Args:
        path: The `output_dir` of a run.

    Raises:
        FileNotFoundError: No run has begun there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand(path)
        if not (self.path / RESOLVED).is_file():
            raise FileNotFoundError(f"{path}: no run folder: it holds no {RESOLVED}")

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def config(self) -> "RunConfig":
        """Read the run's recipe, in which every default is written out."""
        from redraft.rl.config.recipe import load_recipe

        return load_recipe([self.path / RESOLVED])

    def metrics(self, stage: Stage | None = None) -> list[dict[str, Any]]:
        """Read the rows of metrics.jsonl, in the order in which they were written.

        Args:
            stage: Rows of this stage only.

        Returns:
            One dictionary a row: `step`, `stage` and the metrics, whose names docs/metrics.md explains.

        Raises:
            ValueError: There is no such stage, or a line is damaged; names it.
        """
        if stage is not None and stage not in get_args(Stage):
            raise ValueError(f"no stage {stage!r}; {guess_and_valid(stage, get_args(Stage))}")
        rows = _rows(self.path / "metrics.jsonl")
        return [row for row in rows if stage is None or row.get("stage") == stage]

    def samples(self, step: int | None = None) -> list[dict[str, Any]]:
        """Read the completions of one step with their rewards.

        Args:
            step: Number of the batch; the newest one where it is left out.

        Returns:
            One dictionary a completion: the data row's columns, `prompt`, `completion`, `reward` and so on; empty
            before the first batch.

        Raises:
            FileNotFoundError: The run has no samples of this step.
            ValueError: A line is damaged; names it.
        """
        found = {number: path for path in (self.path / "samples").glob("*.jsonl") if (number := _number(path))}
        if step is None and not found:
            return []
        chosen = max(found) if step is None else step
        if chosen not in found:
            raise FileNotFoundError(f"{self.path}: no samples of step {chosen!r}; {_there(list(found))}")
        return _rows(found[chosen])

    @property
    def checkpoints(self) -> list[Path]:
        """Find the complete checkpoints, oldest first; each holds a policy in `hf/`."""
        return complete_checkpoints(self.path)

    @property
    def policy(self) -> Path:
        """Find the newest policy, a Hugging Face folder: the newest checkpoint's, or the warm start's before that.

        Raises:
            CheckpointNotFoundError: There is neither.
        """
        return find_policy(self.path)


def _number(path: Path) -> int | None:
    return step_number(path.name, ".jsonl")


def _there(steps: list[int]) -> str:
    return f"there are {len(steps)} from {min(steps)} to {max(steps)}" if steps else "there are none yet"


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a JSONL file; the run may be in the middle of writing the last one."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [_row(line, f"{path}:{number}") for number, line in enumerate(file, 1) if line.endswith("\n")]


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON: {error}; mend or remove the line") from None
