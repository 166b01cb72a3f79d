"""A policy and a recipe so small that a whole run takes seconds."""

import contextlib
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from shapes import small_shape

if TYPE_CHECKING:
    from redraft.rl.models.llada2 import LLaDA2Model

SHAPE = small_shape()
DECODE = {
    "block_length": 8,
    "threshold": 0.5,
    "editing_threshold": 0.3,
    "max_post_steps": 2,
    "max_completion_length": 8,
    "temperature": 1.0,
    "edit_sampling": "sample",
    "unmask_confidence": "top",
}


def make_policy(folder: Path, seed: int = 0, dtype: str = "float32") -> Path:
    """A random policy with a tokenizer, as a Hugging Face folder."""
    from redraft.rl.models.registry import build_policy, save_policy

    model, tokenizer, _ = build_policy(SHAPE, dtype, "cpu", seed)
    save_policy(model, folder, tokenizer)
    return folder


def build_bare_policy(shape: Mapping[str, Any], dtype: str, device: str, seed: int) -> "LLaDA2Model":
    """A policy from scratch without a tokenizer: `shape`, fields of config.json, says the vocabulary size too."""
    from redraft.rl.models.llada2 import LLaDA2Config, LLaDA2Model, init_weights
    from redraft.rl.models.registry import resolve_device, resolve_dtype
    from redraft.rl.seeding import make_generator

    model = LLaDA2Model(LLaDA2Config.from_dict(shape), dtype=resolve_dtype(dtype), device=resolve_device(device))
    init_weights(model, make_generator(seed, "init", device=resolve_device(device)))
    return model


def recipe(folder: Path, **sections: Any) -> dict[str, Any]:
    """A recipe of a few tiny steps; the reward is the share of digits in the completion, so there is always signal."""
    reward = folder / "reward.py"
    reward.parent.mkdir(parents=True, exist_ok=True)
    reward.write_text(
        "def digits(prompts, completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]\n"
    )
    base: dict[str, Any] = {
        "output_dir": str(folder / "run"),
        "model": {"path": str(folder / "policy")},
        "data": {"path": "arithmetic", "kwargs": {"max_a": 9, "max_b": 9}},
        "rewards": [{"fn": f"{reward}:digits", "isolation": "inline"}],
        "rollout": {"prompts_per_step": 3, "num_generations": 4, "decode": DECODE, "num_actors": 2},
        "trainer": {"total_steps": 4, "learning_rate": 1e-3, "save_steps": 2},
        "evaluation": {
            "data": {"path": "arithmetic", "split": "test", "max_rows": 6, "kwargs": {"max_a": 9, "max_b": 9}},
            "decode": {**DECODE, "temperature": 0.0, "edit_sampling": "argmax"},
            "eval_steps": 2,
        },
        "cluster": {"backend": "inprocess", "learner_threads": 1},
    }
    return {**base, **sections}


def write_recipe(folder: Path, **sections: Any) -> Path:
    """The recipe as a file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(folder, **sections)))
    return path


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores SIGXFSZ, so that writes fail with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
