"""Instruction following: the checkers of IFEval and the reward ``ifeval`` made of them."""

from redraft.rewards.library.instructions.reward import ifeval
from redraft.rewards.library.instructions.table import bind, follows, follows_loosely

__all__ = ["bind", "follows", "follows_loosely", "ifeval"]
