"""From the scores of one completion to the total that is learned from. Pure functions."""

import math
from collections.abc import Mapping, Sequence

from redraft.rewards.result import SampleScore, Status, Verdict
from redraft.rewards.term import RewardTerm


def combine(terms: Sequence[RewardTerm], verdicts: Mapping[str, Verdict]) -> SampleScore:
    """Total of one completion: ``gates * sum of weight * score``, plus shaping.

    A score that does not apply is left out. One that is missing because the machinery failed or the data row is broken
    masks the whole completion: the sum of the others would be a low reward that the completion does not deserve. A
    score of weight 0 is only reported.

    Args:
        terms: The rewards.
        verdicts: Verdict of each, by its name.

    Returns:
        Total and unshaped reward. Both are None where a score is missing or no task reward applies, and equal where the
        mixture is nothing but shaping.
    """
    counted = [(term, verdicts[term.name]) for term in terms if term.weight]
    if any(is_failure(verdict) for _, verdict in counted):
        return SampleScore(None, None, verdicts)
    applied = [(term, verdict.score) for term, verdict in counted if verdict.score is not None]
    task = [term.weight * score for term, score in applied if not (term.gate or term.shaping)]
    shaping = [term.weight * score for term, score in applied if term.shaping]
    if not task:
        only_shaping = all(term.gate or term.shaping for term, _ in counted)
        total = math.fsum(shaping) if shaping and only_shaping else None
        return SampleScore(total, total, verdicts)
    unshaped = math.prod(score for term, score in applied if term.gate) * math.fsum(task)
    return SampleScore(math.fsum([unshaped, *shaping]), unshaped, verdicts)


def is_failure(verdict: Verdict) -> bool:
    """Tell whether it has no score although the reward applies to the completion."""
    return verdict.score is None and verdict.status in {Status.INFRA_ERROR, Status.GOLD_ERROR, Status.TIMEOUT}


def summed_parts(terms: Sequence[RewardTerm], scored: SampleScore) -> dict[str, float | None]:
    """Return the summands of the total by name, gates multiplied in, for methods that normalise each before the sum.

    Args:
        terms: The rewards.
        scored: Their scores of one completion; all summands of a masked one are None.
    """
    parts = scored.parts
    gate = math.prod(score for term in terms if term.gate and (score := parts[term.name]) is not None)

    def part(term: RewardTerm) -> float | None:
        score = parts[term.name]
        return None if score is None or scored.total is None else score if term.shaping else gate * score

    return {term.name: part(term) for term in terms if term.weight and not term.gate}
