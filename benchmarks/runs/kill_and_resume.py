"""Kill a run at random moments and resume it: is it the run that was never stopped, bit for bit?

    OMP_NUM_THREADS=1 python -m benchmarks.runs.kill_and_resume --kills 10

Each run of a tiny policy with the default method is a process of its own, forked once everything is imported, so that
the kills fall into the run and not into its start. It is killed with SIGKILL at a uniformly drawn moment of the
undisturbed run's time, continued by the newest complete checkpoint (or begun again where there is none), and compared:
every number of metrics.jsonl that is no measurement of time, the weights, and the learner's whole state.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from benchmarks.common.record import write_record
from redraft.rl.run_folder.checkpoint import complete_checkpoints
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.registry import build_policy, save_policy
from redraft.rl.run_folder.recorder import Recorder
from redraft.rl.run import run_training

NAME = "kill_and_resume"
SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
    "n_group": 2, "topk_group": 1, "rope_theta": 10000.0, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
REWARD = """def digits(prompts, completions, **columns):
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]
"""
TIMES = ("time/", "decode/tokens_per_s", "reward/slowest", "rewards/digits/ms_")


class Silent:
    """Shows nothing."""

    def step(self, stage: str, step: int, metrics: Any) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


def make_config(folder: Path, run: str, backend: str) -> RunConfig:
    """The recipe: `vrbpo`, hot enough for its trust region to act, checkpoints every third step."""
    data = {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}}
    decode = {"block_length": 8, "threshold": 0.5, "editing_threshold": 0.3, "max_completion_length": 8}
    return RunConfig.model_validate(
        {
            "output_dir": str(folder / run),
            "model": {"path": str(folder / "policy")},
            "data": data,
            "rewards": [{"fn": f"{folder}/reward.py:digits", "isolation": "inline"}],
            "rollout": {"prompts_per_step": 3, "num_generations": 4, "decode": decode},
            "algorithm": {"preset": "vrbpo"},
            "trainer": {"total_steps": 12, "learning_rate": 1e-2, "save_steps": 3},
            "evaluation": {"data": data | {"split": "test", "max_rows": 6}, "decode": decode, "eval_steps": 4},
            "cluster": {"backend": backend},
        }
    )


def start(config: RunConfig, resume: bool) -> Any:
    """A process that trains."""
    process = multiprocessing.get_context("fork").Process(
        target=run_training, args=(config, Recorder(config, Silent()), resume)
    )
    process.start()
    return process


def finish(config: RunConfig, resume: bool) -> float:
    """Train to the end; seconds it took."""
    started = time.monotonic()
    process = start(config, resume)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{config.output_dir}: the run ended with {process.exitcode}")
    return time.monotonic() - started


def kill_and_resume(config: RunConfig, moment_s: float) -> dict[str, Any] | None:
    """Kill a run after so many seconds and continue it; None if it had ended before."""
    run = Path(config.output_dir)
    process = start(config, resume=False)
    process.join(moment_s)
    if not process.is_alive():
        return None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    steps = [row["step"] for row in metrics(run) if row["stage"] == "train"]
    partial = sorted(path.name for path in (run / "checkpoints").glob(".step_*"))
    saved = complete_checkpoints(run)
    finish(config, resume=bool(saved))
    return {
        "killed_after_s": round(moment_s, 2),
        "steps_done": max(steps, default=0),
        "in_a_save": bool(partial),
        "resumed_from": saved[-1].name if saved else "the start",
    }


def metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what measures time."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append({key: value for key, value in json.loads(line).items() if not key.startswith(TIMES)})
        except json.JSONDecodeError:  # cut short by the kill
            continue
    return rows


def weights(run: Path) -> dict[str, bytes]:
    """Files of the last checkpoint's policy."""
    return {path.name: path.read_bytes() for path in sorted((complete_checkpoints(run)[-1] / "hf").iterdir())}


def learner_state(run: Path) -> list[Any]:
    """The last checkpoint's optimizer state, groups and version, in an order and a form that can be compared."""
    file = run / "state.pt"
    dcp_to_torch_save(complete_checkpoints(run)[-1] / "state", file)
    state = torch.load(file, weights_only=True)
    file.unlink()
    moments = state["optimizer"]["state"]
    flat = [moments[name][kind].numpy().tobytes() for name in sorted(moments) for kind in sorted(moments[name])]
    return [flat, state["optimizer"]["param_groups"], state["policy_version"]]


def compare(run: Path, whole: Path) -> dict[str, bool]:
    """What of two runs is equal."""
    kept = {run: read_trainer(run), whole: read_trainer(whole)}
    return {
        "equal_metrics": metrics(run) == metrics(whole),
        "equal_weights": weights(run) == weights(whole),
        "equal_state": learner_state(run) == learner_state(whole) and kept[run] == kept[whole],
    }


def read_trainer(run: Path) -> dict[str, Any]:
    """What the last checkpoint keeps of the loop."""
    return json.loads((complete_checkpoints(run)[-1] / "trainer.json").read_text())


def table(rows: list[dict[str, Any]], whole_s: float, backend: str) -> str:
    """The results as Markdown."""
    said = {True: "yes", False: "NO"}
    lines = [
        f"# Killed at random moments and resumed ({backend}, vrbpo, 12 steps in {whole_s:.1f} s, each third saved)",
        "",
        "| killed after | steps done | in a save | resumed from | equal metrics | equal weights | equal optimizer |",
        "|--:|--:|--|--|--|--|--|",
    ]
    lines += [
        f"| {row['killed_after_s']:.2f} s | {row['steps_done']} | {'yes' if row['in_a_save'] else 'no'}"
        f" | {row['resumed_from']} | {said[row['equal_metrics']]} | {said[row['equal_weights']]}"
        f" | {said[row['equal_state']]} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--backend", choices=["inprocess", "ray"], default="inprocess")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "reward.py").write_text(REWARD)
        model, tokenizer, _ = build_policy(SHAPE, "float32", "cpu", 0, block_length=8)
        save_policy(model, folder / "policy", tokenizer)
        whole_s = finish(make_config(folder, "whole", options.backend), resume=False)
        draw, rows = random.Random(options.seed), []
        while len(rows) < options.kills:
            config = make_config(folder, f"killed_{len(rows)}_{time.monotonic_ns()}", options.backend)
            row = kill_and_resume(config, draw.uniform(0, whole_s))
            if row is not None:
                rows.append(row | compare(Path(config.output_dir), folder / "whole"))
                print(json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: row["killed_after_s"])
    stem = NAME if options.backend == "inprocess" else f"{NAME}_{options.backend}"
    write_record(options.out / f"{stem}.json", {"whole_s": whole_s, "kills": rows})
    (options.out / f"{stem}.md").write_text(table(rows, whole_s, options.backend))
    print(table(rows, whole_s, options.backend))
    if not all(row[key] for row in rows for key in row if key.startswith("equal")):
        raise SystemExit("a resumed run is another run")


if __name__ == "__main__":
    main()
