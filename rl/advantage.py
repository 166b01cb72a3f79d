"""Advantages of a group of completions of one prompt: pure functions of rewards."""

from collections.abc import Sequence


def group_advantages(rewards: Sequence[float | None], kind: str) -> list[float | None]:
    """Advantages inside one group.

    * `dr_grpo`: r - mean(r).
    * `leave_one_out`: r - mean of the others' rewards = n / (n - 1) (r - mean(r)): unbiased as a baseline.

    Args:
        rewards: One per completion; None where a completion could not be scored.
        kind: One of the names above.

    Returns:
        One advantage per completion; None where the reward is None or no other completion of the group has one
        (a lone reward says nothing about being better or worse).
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2:
        return [None] * len(rewards)
    mean = sum(known) / len(known)
    scale = len(known) / (len(known) - 1) if kind == "leave_one_out" else 1.0
    return [None if reward is None else scale * (reward - mean) for reward in rewards]
