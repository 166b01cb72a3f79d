"""Train a recipe with each rollout engine from one warm start, and compare what they learn, number for number.

    python -m benchmarks.runs.engines recipes/quickstart.yaml --engines torch vllm

Prints a Markdown table and writes NAME_engines.json. Ends with 1 if a run gains less than --min-gain points.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.runs.learning_curves import run
from benchmarks.common.record import write_record

TIMINGS = ("time/", "_ms", "_per_s", "slowest")  # parts of the names of metrics that depend on the clock


def learned(folder: Path) -> list[dict[str, Any]]:
    """What a run's metrics say, without what the clock says."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["stage"] in ("train", "eval")]
    return [{k: v for k, v in row.items() if not any(part in k for part in TIMINGS)} for row in kept]


def rollout_seconds(folder: Path) -> float:
    """Of all training steps together."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sum(row.get("time/rollout_s", 0.0) for row in rows)


def compare(recipe: str, engines: list[str], overrides: list[str], runs: Path) -> list[dict[str, Any]]:
    """One run per engine; each is compared with the first."""
    results: list[dict[str, Any]] = []
    first: Path | None = None
    for engine in engines:
        folder = runs / f"{Path(recipe).stem}_{engine}"
        shutil.rmtree(folder, ignore_errors=True)
        start = [] if first is None else [f"model.path={first / 'sft' / 'hf'}"]
        found = run(recipe, folder, 0, [f"rollout.engine={engine}", *overrides, *start])
        first = first or folder
        rows, reference = learned(folder), learned(first)
        same = sum(row == other for row, other in zip(rows, reference, strict=True))
        gain = 100 * (found["accuracy"][-1] - found["accuracy"][0])
        compared = {"engine": engine, "gain": gain, "rows": len(rows), "rows_as_first": same}
        results.append(found | compared | {"rollout_seconds": rollout_seconds(folder)})
    return results


def table(results: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = ["| engine | before RL | after RL | metric rows as the first | rollout seconds |", "|---|--:|--:|--:|--:|"]
    for one in results:
        before, after = one["accuracy"][0], one["accuracy"][-1]
        same = f"{one['rows_as_first']} of {one['rows']}"
        lines.append(f"| {one['engine']} | {before:.1%} | {after:.1%} | {same} | {one['rollout_seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key.sub=value, for every run")
    parser.add_argument("--engines", nargs="+", default=["torch", "vllm"])
    parser.add_argument("--min-gain", type=float, default=20.0, help="points of held-out accuracy")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/engines"), help="run folders go here")
    options = parser.parse_args()
    results = compare(options.recipe, options.engines, options.overrides, options.runs)
    write_record(options.out / f"{Path(options.recipe).stem}_engines.json", results)
    print(table(results))
    if short := [one["engine"] for one in results if one["gain"] < options.min_gain]:
        sys.exit(f"gained less than {options.min_gain:g} points: {', '.join(short)}")


if __name__ == "__main__":
    main()
