"""Run a recipe for several seeds, with the shuffled-reward control, and draw the held-out curves.

    python -m benchmarks.runs.learning_curves recipes/quickstart.yaml --seeds 0 1 2 --control 0 --out benchmarks/results

Prints a Markdown table and writes NAME.json (figures, versions, command) and NAME.png. The control starts from the
warm start of its seed and differs only in `trainer.shuffle_rewards=true`: it must not gain.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.common.record import write_record

COMMAND = [sys.executable, "-m", "redraft.rl.cli.main", "train"]


def run(recipe: str, folder: Path, seed: int, overrides: list[str]) -> dict[str, Any]:
    """One training run; its held-out curve and seconds."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, recipe, f"seed={seed}", f"output_dir={folder}", *overrides], check=True)
    return {"seed": seed, "seconds": round(time.perf_counter() - started, 1), **curve(folder)}


def curve(folder: Path) -> dict[str, Any]:
    """Steps and held-out accuracies of a finished run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["stage"] == "eval"]
    return {
        "steps": [row["step"] for row in evaluations],
        "accuracy": [row["eval/accuracy"] for row in evaluations],
        "tokens_per_forward": [row["eval/tokens_per_forward"] for row in evaluations],
        "train_seconds": round(sum(row["time/step_s"] for row in rows if row["stage"] == "train"), 1),
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| run | before RL | after RL | change (points) | tokens per forward | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for kind, runs in results.items():
        for one in runs:
            first, last = one["accuracy"][0], one["accuracy"][-1]
            speed = f"{one['tokens_per_forward'][0]:.2f} → {one['tokens_per_forward'][-1]:.2f}"
            lines.append(
                f"| {kind}, seed {one['seed']} | {first:.1%} | {last:.1%} | {100 * (last - first):+.1f}"
                f" | {speed} | {one['seconds']:.0f} |"
            )
    return "\n".join(lines)


def draw(results: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """Held-out accuracy against optimizer steps."""
    figure, axes = plt.subplots(figsize=(7, 4))
    styles = {"RL": ("C0", "-"), "shuffled rewards": ("C3", "--")}
    for kind, runs in results.items():
        color, line = styles[kind]
        for index, one in enumerate(runs):
            label = kind if index == 0 else None
            axes.plot(
                one["steps"], [100 * a for a in one["accuracy"]], line, color=color, marker="o", ms=3, label=label
            )
    axes.set(xlabel="optimizer steps", ylabel="held-out greedy accuracy (%)", title=title, ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key.sub=value, for every run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--control", type=int, nargs="*", default=[], help="seeds of the shuffled-reward control")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/learning_curves"), help="run folders go here")
    options = parser.parse_args()
    name = Path(options.recipe).stem
    results: dict[str, list[dict[str, Any]]] = {"RL": [], "shuffled rewards": []}
    for seed in options.seeds:
        folder = options.runs / f"{name}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        results["RL"].append(run(options.recipe, folder, seed, options.overrides))
    for seed in options.control:
        folder = options.runs / f"{name}_{seed}_shuffled"
        shutil.rmtree(folder, ignore_errors=True)
        start = options.runs / f"{name}_{seed}" / "sft" / "hf"
        overrides = [*options.overrides, "trainer.shuffle_rewards=true", f"model.path={start}"]
        results["shuffled rewards"].append(run(options.recipe, folder, seed, overrides))
    write_record(options.out / f"{name}.json", results)
    draw(results, name, options.out / f"{name}.png")
    print(table(results))


if __name__ == "__main__":
    main()
