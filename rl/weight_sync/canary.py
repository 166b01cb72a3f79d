"""The first sync of a run, and the proof that the engine decodes with the weights that it is sent.

The checksums of a sync prove that the weights are in place. They do not prove that the engine uses that place: it may
compute with a copy, with a captured graph of earlier weights, or with keys that those wrote. So one tensor is perturbed
on the learner and sent, and the same short decode must give other log-probabilities; then it is restored and sent, and
they must be as before.
"""

import math

from redraft.rl.protocols import PolicyLearner, RolloutPool
from redraft.rollout.config import DecodeConfig
from redraft.rollout.trajectory import Prompt
from redraft.rollout.weights.manifest import WeightSyncError


def first_sync(rollouts: RolloutPool, learner: PolicyLearner, prompt: Prompt, config: DecodeConfig) -> int:
    """Send the whole policy, then the bucket of one tensor twice.

    Args:
        rollouts: Where the weights go.
        learner: Where they come from.
        prompt: What an engine completes, a single block, three times.
        config: How it decodes.

    Returns:
        The version that is in place.

    Raises:
        WeightSyncError: The engine's log-probabilities do not follow the weights.
    """
    probe = config.model_copy(update={"max_completion_length": config.block_length})
    version = rollouts.sync(learner.weights())
    before = _log_probs(rollouts, prompt, probe)
    rollouts.sync(learner.weights("perturbed"))
    moved = _distance(before, _log_probs(rollouts, prompt, probe))
    rollouts.sync(learner.weights("restored"))
    back = _distance(before, _log_probs(rollouts, prompt, probe))
    # Keys of the probe must not serve the run: a run that is resumed at this step would read other ones.
    rollouts.sync(learner.weights("checked"))
    if moved == 0:
        raise WeightSyncError(
            "the rollout engine does not decode with the weights that it is sent: a perturbed tensor was installed, and"
            " no log-probability moved; an engine must compute with the tensors of its policy's state_dict"
        )
    if back == math.inf or back * 10 > moved:  # on a GPU two runs of one kernel may differ in rounding
        raise WeightSyncError(
            f"the rollout engine keeps something of earlier weights: a tensor was perturbed, which moved"
            f" log-probabilities by up to {moved:.3g} nats, and after it was restored they are still {back:.3g} away"
        )
    return version


def _log_probs(rollouts: RolloutPool, prompt: Prompt, config: DecodeConfig) -> list[tuple[int, float]]:
    """Decode one block; return tokens with their log-probabilities (nats), by forward and position."""
    (completion,) = (one for _, one in rollouts.stream([prompt], config))
    return list(zip(completion.trace.new, completion.trace.log_prob_raw, strict=True))


def _distance(one: list[tuple[int, float]], other: list[tuple[int, float]]) -> float:
    """Compute the largest difference of log-probabilities, in nats; infinite where other tokens were drawn."""
    if [token for token, _ in one] != [token for token, _ in other]:
        return math.inf
    return max((abs(a - b) for (_, a), (_, b) in zip(one, other, strict=True)), default=0.0)
