"""Shaping by length and repetition: small terms beside a task reward, on tokens up to the first stop token.

``completion_ids`` ends with that token, so the length of the canvas does not count. A completion without token ids (a
text scored outside a rollout) cannot be shaped: its score is None, with status infra_error.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from redraft.rewards.result import RewardError, Status, Verdict
from redraft.rewards.reward import reward

_Ids = Sequence[Sequence[int] | None]
_NO_IDS = Verdict(None, Status.INFRA_ERROR, "no completion_ids: length rewards need the token ids of the rollout")


def overlong_penalty(length: int, longest: int, buffer: int) -> float:
    """0 up to `longest - buffer` tokens, then linear down to -1 at `longest` (DAPO; docs/math.md eq 44).

    Args:
        length: Tokens of the completion up to and with its first stop token.
        longest: Tokens at which completions are cut.
        buffer: Tokens over which the penalty grows; 0: none.
    """
    return max(-1.0, min(0.0, (longest - buffer - length) / buffer)) if buffer else 0.0


@reward("soft_overlong", isolation="inline", shaping=True)
def soft_overlong(
    completion_ids: _Ids,
    max_completion_length: int,
    buffer: int,
) -> list[float | Verdict]:
    """Punish long completions as DAPO does, between -1 and 0; see `overlong_penalty`.

    Args:
        completion_ids: Token ids per completion, up to and with the first stop token.
        max_completion_length: Tokens at which completions are cut.
        buffer: Tokens before that over which the penalty grows from 0 to -1.

    Raises:
        RewardError: Not 0 < buffer <= max_completion_length.
    """
    if not 0 < buffer <= max_completion_length:
        raise RewardError(f"buffer={buffer} must be from 1 to max_completion_length={max_completion_length}")
    return _per_row(completion_ids, lambda ids: overlong_penalty(len(ids), max_completion_length, buffer))


@reward("cosine_length", isolation="inline", shaping=True)
def cosine_length(
    completion_ids: _Ids,
    parts: Sequence[Mapping[str, float | None]],
    correct: str,
    max_completion_length: int,
    correct_values: Sequence[float] = (1.0, 0.5),
    wrong_values: Sequence[float] = (-1.0, -0.5),
) -> list[float | Verdict | None]:
    """Reward a correct completion the more the shorter it is; a wrong one loses less the longer it is (half a cosine).

    Args:
        completion_ids: Token ids per completion, up to and with the first stop token.
        parts: Scores of the earlier terms, by name, per completion.
        correct: Name of the earlier term that says what is correct: 1 is, 0 is not, between them the two are mixed.
        max_completion_length: Tokens at which the second value is reached.
        correct_values: Scores of a correct completion of no tokens, and of one of full length.
        wrong_values: The same for a wrong one.

    Returns:
        Per completion a score; None where the earlier term has none.

    Raises:
        RewardError: `correct` is no earlier term or its score is not from 0 to 1; a bad length or pair of values.
    """
    if max_completion_length < 1 or len(correct_values) != 2 or len(wrong_values) != 2:
        valid = "max_completion_length must be positive, correct_values and wrong_values a [short, long] pair each"
        raise RewardError(f"{valid}, got {max_completion_length}, {correct_values} and {wrong_values}")
    scores = [_score_of(part, correct) for part in parts]

    def shaped(row: int, ids: Sequence[int]) -> float | None:
        share = scores[row]
        if share is None:
            return None
        fraction = min(len(ids) / max_completion_length, 1.0)
        right, wrong = (_half_cosine(values, fraction) for values in (correct_values, wrong_values))
        return share * right + (1 - share) * wrong

    return [_NO_IDS if ids is None else shaped(row, ids) for row, ids in enumerate(completion_ids)]


@reward("repetition_penalty", isolation="inline", shaping=True)
def repetition_penalty(
    completion_ids: _Ids,
    ngram_size: int = 3,
    max_penalty: float = -1.0,
) -> list[float | Verdict]:
    """Punish repetition: `max_penalty` times the share of token n-grams that occurred before in the completion.

    Args:
        completion_ids: Token ids per completion, up to and with the first stop token.
        ngram_size: Tokens that make one n-gram.
        max_penalty: The penalty that a completion of nothing but repetition approaches; at most 0.

    Raises:
        RewardError: ngram_size below 1, or a positive max_penalty.
    """
    if ngram_size < 1 or max_penalty > 0:
        raise RewardError(f"ngram_size={ngram_size} must be positive and max_penalty={max_penalty} at most 0")
    return _per_row(completion_ids, lambda ids: max_penalty * _repeated_share(ids, ngram_size))


def _per_row(completion_ids: _Ids, score: Callable[[Sequence[int]], float]) -> list[float | Verdict]:
    return [_NO_IDS if ids is None else score(ids) for ids in completion_ids]


def _score_of(parts: Mapping[str, float | None], name: str) -> float | None:
    if name not in parts:
        raise RewardError(
            f"correct={name!r} is no earlier reward; valid: {', '.join(parts) or 'none, it stands first'}"
        )
    score = parts[name]
    if score is not None and not 0 <= score <= 1:
        raise RewardError(
            f"correct={name!r} scored {score:g}; cosine_length needs a score from 0 (wrong) to 1 (correct)"
        )
    return score


def _half_cosine(values: Sequence[float], fraction: float) -> float:
    """Half a cosine wave from the first value at 0 to the second at 1."""
    return values[1] + (values[0] - values[1]) * (1 + math.cos(fraction * math.pi)) / 2


def _repeated_share(ids: Sequence[int], ngram_size: int) -> float:
    ngrams = list(zip(*(ids[start:] for start in range(ngram_size)), strict=False))  # the shortest slice ends it
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
