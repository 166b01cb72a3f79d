"""The policies that the learning benchmark starts from: trained once per task, kept in the output folder."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.policies import build_bare_policy
from benchmarks.common.pretrain import PretrainConfig, pretrain
from benchmarks.learning.tasks import TASKS, TOKENS, VOCAB_SIZE
from redraft.rl.atomic import atomic_write
from redraft.rl.models.registry import save_policy

BLOCK_LENGTH = 8
# One dense and one routed layer, 12 000 weights: the smallest LLaDA2 that learns both tasks.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 2,
    "topk_group": 2,
    "rope_theta": 10000.0,
    "max_position_embeddings": 32,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class WarmStart:
    """How the policy of a task is made; another value of any field is another policy."""

    task: str
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 1e-2
    demonstrations: int = 20_000
    mask_ratio: tuple[float, float] = (0.3, 1.0)
    seed: int = 0

    def folder(self, runs: Path) -> Path:
        """Where the policy is kept below `runs`: its name says what it was made with."""
        settings = json.dumps([asdict(self), SHAPE, TASKS[self.task]().settings], sort_keys=True)
        return runs / "warm" / f"{self.task}-{hashlib.blake2b(settings.encode(), digest_size=4).hexdigest()}"


def ensure_warm_start(start: WarmStart, runs: Path) -> Path:
    """The folder of the task's policy in the Hugging Face layout; trains it when it is not there yet."""
    folder = start.folder(runs)
    if folder.is_dir():
        return folder
    model = build_bare_policy(SHAPE, "float32", "cpu", start.seed)
    config = PretrainConfig(
        steps=start.steps,
        batch_size=start.batch_size,
        learning_rate=start.learning_rate,
        seed=start.seed,
        block_length=BLOCK_LENGTH,
        mask_ratio=start.mask_ratio,
    )
    pretrain(model, TASKS[start.task]().demonstrations(start.demonstrations, start.seed), TOKENS, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as partial:
        save_policy(model, partial, None)
    return folder
