"""The plan's forwards of an update are those that the learner makes."""

from collections import Counter

import pytest
import torch

from oracles.tiny_policy import TOKENS, rollouts, run_config, tiny_model
from plans import TINY
from redraft.rl.learner.learner import Learner
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.plan.batch import plan_batch
from redraft.rl.plan.machine import Machine
from redraft.rl.plan.setup import Assumptions, settle_setup

STEPS = {"num_iterations": 1, "num_minibatches": 2}
ALGORITHMS = {
    "one step": {"num_minibatches": 1, "target_drift": 0},
    "two minibatches": STEPS,
    "KL": {**STEPS, "beta": 0.1},
    "three iterations": {"num_minibatches": 2, "num_iterations": 3},
    "three iterations, new noise": {"num_minibatches": 2, "num_iterations": 3, "redraw": True},
    "routes of the old policy": {**STEPS, "route_replay": "old"},
    "path check": {**STEPS, "path_check": "log", "lookahead": 0.0},
    "drafts": {**STEPS, "estimator": "mean_field", "t2t_views": "draft"},
    "anchor": {**STEPS, "anchor": 0.1},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_forwards_and_backwards_of_an_update(algorithm, monkeypatch):
    calls: Counter[bool] = Counter()
    forward = LLaDA2Model.hidden_states

    def counted(self, *args, **kwargs):
        calls[torch.is_grad_enabled()] += 1
        return forward(self, *args, **kwargs)

    model = tiny_model()
    rows = rollouts(model, [3, 5, 9, 2])
    config = run_config(algorithm)
    changes = {"prompts_per_step": 1, "num_generations": len(rows)}
    config = config.model_copy(update={"rollout": config.rollout.model_copy(update=changes)})
    monkeypatch.setattr(LLaDA2Model, "hidden_states", counted)
    Learner(model, config, TOKENS).update(rows)
    batch = plan_batch(settle_setup(config, TINY, Machine(0, 2.0**34), Assumptions(prompt_tokens=8)))
    assert (calls[False], calls[True]) == (batch.learner_forwards, batch.learner_backwards)
