"""Load evaluation rows, without those that the policy also learns from."""

import logging

from redraft.rl.config.schema import RunConfig
from redraft.rl.data.load import DataError, load_rows, sample_rows
from redraft.rl.data.rows import Row

logger = logging.getLogger(__name__)


def load_held_out(config: RunConfig) -> list[Row]:
    """Load the evaluation rows whose prompts occur neither in the training rows nor among the demonstrations.

    Public splits overlap (two of three calculator annotations of GSM8K's test split also occur in its train split);
    an accuracy over such rows would measure memory too.

    Raises:
        DataError: Every evaluation row is also a training row.
    """
    if config.evaluation is None:
        return []
    seen = {str(row["prompt"]) for row in load_rows(config.data, config.seed)}
    if config.sft is not None:
        seen |= {str(row["prompt"]) for row in load_rows(config.sft.data, config.seed)}
    # Rows are dropped before the sample is taken, so `max_rows` counts rows that really are held out.
    everything = load_rows(config.evaluation.data.model_copy(update={"max_rows": None}), config.seed)
    unseen = [row for row in everything if str(row["prompt"]) not in seen]
    if not unseen:
        raise DataError(f"evaluation.data: all {len(everything)} rows also occur in the training data")
    left_out = len(everything) - len(unseen)
    if left_out:
        logger.warning("evaluation: %d of %d rows also occur in the training data: left out", left_out, len(everything))
    return sample_rows(unseen, config.evaluation.data.max_rows, config.seed)
