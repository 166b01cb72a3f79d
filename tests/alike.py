"""Completions that are the same but for the rounding of their log-probabilities, which depends on the batch."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from redraft.rollout.trajectory import Completion


def assert_alike(completions: Sequence[Completion], others: Sequence[Completion], tolerance: float = 1e-9) -> None:
    """Tokens, actions, forwards, routes and versions are equal; log-probabilities to `tolerance` nats."""
    for one, other in zip(completions, others, strict=True):
        for name in ("log_prob", "log_prob_raw"):
            assert getattr(one.trace, name) == pytest.approx(getattr(other.trace, name), abs=tolerance)
        same_log_probs = replace(one.trace, log_prob=other.trace.log_prob, log_prob_raw=other.trace.log_prob_raw)
        assert replace(one, trace=same_log_probs) == other
        assert (one.trace.routes is None) == (other.trace.routes is None)
        if one.trace.routes is not None:
            assert np.array_equal(one.trace.routes, other.trace.routes)
