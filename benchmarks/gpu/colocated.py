"""Rollout engine and learner on one device: an engine that slept writes the same, its memory was free meanwhile."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.findings import Findings, Setting
from benchmarks.gpu.training import DECODE, SHAPE, make_recipe, rows_of, train
from redraft.rl.cluster.rollout_worker import rollout_worker
from redraft.rl.config.recipe import load_recipe
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.worker import LearnerWorker
from redraft.rl.models.registry import build_policy, load_text_side, save_policy
from redraft.rollout.trajectory import Prompt
from redraft.rollout.worker import RolloutWorker

STEPS = 2
AS_A_RUN = ("rollout.dtype=auto", "trainer.precision.compute=auto")
"""The types that a recipe has without a word: bfloat16 on a GPU, float32 on a CPU."""
PROMPTS = [Prompt(f"p{row}", tuple(range(3, 4 + row)), seed=row) for row in range(12)]


def run(setting: Setting, findings: Findings) -> None:
    """An engine by itself, then a training run beside the same run without sleep."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, tokenizer, _ = build_policy(SHAPE, "float32", setting.device, 0, DECODE["block_length"])
        save_policy(model, folder / "policy", tokenizer)
        del model
        recipe = make_recipe(folder, setting)
        with findings.case("an engine that sleeps"):
            _sleep(load_recipe([recipe], AS_A_RUN), str(folder / "policy"), setting, findings)
        with findings.case("a colocated run"):
            _compare_runs(recipe, folder, setting, findings)


def _sleep(config: RunConfig, path: str, setting: Setting, findings: Findings) -> None:
    """In the type that `rollout.dtype: auto` chooses; on a GPU with graphs, which are captured anew after the sleep."""
    _, tokens = load_text_side(path)
    learner, worker = LearnerWorker(path, config, tokens), rollout_worker(path, config, tokens, None)()
    assert isinstance(worker, RolloutWorker)
    worker.sync(learner.weights())
    before = _completed(worker, config)
    weight = next(worker.policy.model.parameters())
    wanted = "bfloat16" if setting.on_gpu else "float32"
    findings.equal("type of the engine's weights", str(weight.dtype).removeprefix("torch."), wanted)
    size = sum(parameter.nbytes for parameter in worker.policy.model.parameters())
    awake = _allocated(setting)
    worker.sleep()
    asleep = _allocated(setting)
    left = [name for name, parameter in worker.policy.model.named_parameters() if not parameter.is_meta]
    findings.equal("weights that an engine keeps in its sleep", left, [])
    findings.figure("bytes", {"awake": awake, "asleep": asleep, "weights": size})
    if setting.on_gpu:  # the pages, and what graphs hold, come on top
        findings.at_least("bytes given back, over those of the weights", (awake - asleep) / size, 1.0)
    worker.wake()
    worker.sync(learner.weights())
    same = sum(one == two for one, two in zip(before, _completed(worker, config), strict=True))
    findings.equal("completions that are the same after a sleep", same, len(before))


def _completed(worker: RolloutWorker, config: RunConfig) -> Sequence[tuple[int, ...]]:
    found = dict(worker.stream(PROMPTS, config.rollout.decode))
    return [found[index].token_ids for index in range(len(PROMPTS))]


def _allocated(setting: Setting) -> int:
    return torch.cuda.memory_allocated() if setting.on_gpu else 0


def _compare_runs(recipe: Path, folder: Path, setting: Setting, findings: Findings) -> None:
    """Rollouts of the first batch are the same bit for bit; later ones on a CPU, where sums have a fixed order."""
    found = {}
    for placement in ("apart", "colocated"):
        out = train(recipe, folder / placement, STEPS, f"cluster.placement={placement}", *AS_A_RUN)
        found[placement] = [
            (row["reward/mean"], row["completions/mean_length"], row["mismatch/log_prob_abs"]) for row in rows_of(out)
        ]
    steps = 1 if setting.on_gpu else STEPS
    findings.equal(
        "reward and length of a colocated run's batches",
        [row[:2] for row in found["colocated"][:steps]],
        [row[:2] for row in found["apart"][:steps]],
    )
    # The engine's own rounding on a GPU: its weights are bfloat16 there.
    limit = 0.2 if setting.on_gpu else 1e-3
    findings.at_most(
        "learner against a colocated engine, nats per token", max(row[2] for row in found["colocated"]), limit
    )
