"""Evaluate a policy on held-out rows: complete each once and average the first reward, unshaped."""

from collections.abc import Sequence

from redraft.rl.data.rows import Row
from redraft.rl.experience.pipeline import Pipeline
from redraft.rollout.config import DecodeConfig


def evaluate_rows(pipeline: Pipeline, rows: Sequence[Row], decode: DecodeConfig) -> dict[str, float]:
    """Complete every row once, and measure accuracy and the work of the decoder.

    Args:
        pipeline: Decodes and scores.
        rows: Held-out rows.
        decode: Evaluation decode settings.

    Returns:
        `eval/accuracy`: mean of the first reward, unshaped, over the rows that it applies to; and decode metrics.

    Raises:
        ValueError: No row could be scored.
    """
    answers = pipeline.run(rows, pipeline.codec.prompts(rows, 1, "eval", 0), decode)
    completions = answers.completions
    values = [part for part in (next(iter(one.parts.values())) for one in answers.scored) if part is not None]
    if not values:
        raise ValueError(f"evaluation: none of {len(rows)} rows could be scored")
    forwards = sum(completion.num_forwards for completion in completions)
    return {
        "eval/accuracy": sum(values) / len(values),
        "eval/rows": float(len(values)),
        "eval/tokens_per_forward": sum(len(completion.token_ids) for completion in completions) / forwards,
        "eval/edits_per_completion": sum(completion.trace.num_edits for completion in completions) / len(completions),
    }
