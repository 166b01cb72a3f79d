"""How well rows of different lengths fill S slots."""

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple


class Packing(NamedTuple):
    """Passes of a decode against what they could have been.

    Attributes:
        steps: Denoising steps of all rows.
        longest: Of the row that took most.
        tail: Passes that a perfect packing spends on the longest row alone.
        perfect: The fewest passes that any order of admission could need: `steps` / S, rounded up, plus the tail.
        first_come: What rows need that are admitted in order, each as soon as a slot is free, and never wait.
        passes: What was counted.
        ratio: `passes` / `perfect`.
    """

    steps: int
    longest: int
    tail: int
    perfect: int
    first_come: int
    passes: int
    ratio: float


def packing(steps: Sequence[int], slots: int, passes: int) -> Packing:
    """Compares with a perfect packing.

    A row takes one step per pass, so no schedule has fewer passes than steps / S, nor fewer than the longest row has
    steps. The tail is what the longest row has beyond the first figure: the strictest reading of it, in which all that
    can overlap does overlap, as if the longest rows had been admitted first. Rows are in truth admitted in the order
    of the prompts, as nobody knows their lengths, and end one by one.

    Args:
        steps: Denoising steps of each row, in the order of admission.
        slots: S.
        passes: Forwards that were counted.
    """
    share, longest = math.ceil(sum(steps) / slots), max(steps)
    tail = max(0, longest - share)
    ends = [0] * slots
    for own in steps:
        heapq.heapreplace(ends, ends[0] + own)
    return Packing(sum(steps), longest, tail, share + tail, max(ends), passes, passes / (share + tail))
