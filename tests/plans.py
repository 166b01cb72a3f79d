"""Recipes, shapes and machines for tests of `redraft plan`, without torch and without files."""

from redraft.rl.config.recipe import load_recipe
from redraft.rl.config.schema import RunConfig
from redraft.rl.models.llada2.config import LLaDA2Config
from redraft.rl.models.shape import PUBLISHED, Shape, shape_of
from redraft.rl.plan.machine import CARD_GIB, GIB, Machine
from redraft.rl.plan.setup import Assumptions, Setup, settle_setup
from shapes import small_shape

MINI, FLASH = (shape_of(PUBLISHED[f"inclusionAI/LLaDA2.1-{size}"]) for size in ("mini", "flash"))
TINY = shape_of(LLaDA2Config.from_dict(small_shape(vocab_size=40)))
_BASE = ["evaluation=null", "sft=null", "model.init=null", "model.path=x", "trainer.activation_checkpointing=layer"]
_DECODE = ["rollout.decode.block_length=8", "rollout.decode.max_completion_length=8"]


def plan_config(*words: str) -> RunConfig:
    """The quickstart with other words: short blocks and completions, checkpointed activations, no warm start."""
    return load_recipe(["quickstart"], [*_BASE, *_DECODE, *words])


def cards_of(gpus: int) -> Machine:
    """GPUs that are sold as 80 GB."""
    return Machine(gpus, CARD_GIB * GIB)


def plan_setup(shape: Shape, gpus: int, *words: str, imbalance: float | None = 1.5) -> Setup:
    """A run on some GPUs, with prompts of 8 tokens."""
    return settle_setup(plan_config(*words), shape, cards_of(gpus), Assumptions(prompt_tokens=8, imbalance=imbalance))
