"""One test per trap seen in public code of learning on diffusion language models: lengths, replay, groups, ranks.

They run the real views, decoder and learner on tiny policies; the list begins in test_traps_noise.py. A trap that a
test elsewhere is about already has its line here instead:

tokens behind a stop token dropped -> tests/rl/test_trajectory_views.py::test_tokens_behind_a_stop_token_are_scored_because_they_were_sampled
one-sided clip on noisy ratios -> tests/rl/test_losses.py::test_stable_weights_are_bounded_on_both_sides_and_ppos_slope_is_not
token mean by micro-batch -> tests/rl/test_learner.py::test_the_gradient_does_not_depend_on_the_micro_batches_or_the_order_of_rows
ranks whose losses do not add up -> tests/rl/test_rank_split.py::test_the_slopes_of_two_ranks_with_whole_groups_are_those_of_one_process
expert bias updated -> tests/rl/test_learner.py::test_the_router_learns_only_if_it_is_not_frozen
confidence rises while reward falls -> tests/rl/test_alarm.py::test_a_collapse_is_found_while_it_happens_and_the_message_says_what_fell_and_what_rose
confidence collapse in a run -> tests/rl/test_alarm.py::test_a_real_collapse_stops_a_run_that_is_preempted_every_few_steps_with_a_checkpoint
"""  # noqa: E501

import dataclasses

import pytest
import torch

from benchmarks.common.policies import decode
from oracles.noise_draws import batch_of, plain_row
from oracles.plain_forward import action_log_probs, view_log_probs
from oracles.tiny_policy import DECODE, TOKENS, flat_gradient, nudge, rollouts, run_config, tiny_model
from redraft.rl.config.choices import BaselineAdvantage
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.sections import RolloutConfig, RolloutDecode
from redraft.rl.data.codec import Codec
from redraft.rl.experience.assemble import completion_metrics, make_experience
from redraft.rl.learner.learner import Learner
from redraft.rl.models.registry import build_policy
from redraft.rl.views import make_views
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.torch_engine import TorchEngine
from short_names import short
from tiny import DECODE as TEXT_DECODE
from tiny import SHAPE

MASK = TOKENS.mask
ELBO = {"estimator": "elbo", "ratio": "sequence"}
WARM = DECODE.model_copy(update={"temperature": 0.6})


def learner_of(algorithm, decode_config=DECODE):
    return Learner(tiny_model(), run_config(algorithm, {"freeze_router": False}, decode_config), TOKENS)


@pytest.mark.parametrize(
    "algorithm",
    [{**ELBO, "num_mc": 2, "gamma": 1.0}, {"estimator": "mean_field", "num_mc": 2, "loss_normaliser": "sequence"}],
    ids=["sequence ratio", "token mean"],
)
def test_the_length_that_divides_is_that_of_the_generated_tokens_and_not_of_the_canvas(algorithm):
    short, long = plain_row(3, 5, 1), dataclasses.replace(plain_row(2, 22, 2), advantage=0.0)
    roomy = DECODE.model_copy(update={"max_completion_length": 40})
    learner, plain, batch = learner_of(algorithm, roomy), tiny_model(), batch_of(short)
    for view in make_views(batch, learner.config.algorithm, MASK, score_edits=True):
        scored = torch.stack(view_log_probs(plain, batch, view, MASK, 1.0))
        (-(view.weight[view.scored] * scored).sum() / (2 * 5)).backward()  # two rows; five of 8, 24 or 40 slots
    learner.update([short, long])
    torch.testing.assert_close(flat_gradient(learner.model), flat_gradient(plain), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("fallback", "other"), [("confident", "leftmost"), ("leftmost", "confident")])
def test_the_recomputed_position_rule_is_the_recorded_one_and_recorded_slots_are_scored(fallback, other):
    config, strange = (
        WARM.model_copy(update={"threshold": 0.7, "unmask_fallback": rule}) for rule in (fallback, other)
    )
    checked = {"estimator": "trajectory", "path_check": "log"}
    learner, rows = learner_of(checked, config), rollouts(tiny_model(), [0, 5, 2], config)
    assert learner_of(checked, strange).update(rows)["mismatch/path_fraction"] > 0
    assert learner.update(rows)["mismatch/path_fraction"] == 0
    nudge(learner.model, 0.2)
    plain = tiny_model()
    plain.load_state_dict(learner.model.state_dict())
    assert learner.update(rows)["mismatch/path_fraction"] > 0  # it would choose other slots by now
    for row in rows:
        values = action_log_probs(plain, row.prompt.token_ids, row.completion.trace, 4, config.temperature)
        (-row.advantage * torch.stack(values).sum() / (3 * config.max_completion_length)).backward()
    torch.testing.assert_close(flat_gradient(learner.model), flat_gradient(plain), rtol=0, atol=1e-10)


def test_token_log_probs_of_a_sampler_that_draws_before_it_chooses_are_refused():
    drawn = DECODE.model_copy(update={"unmask_confidence": "drawn"})
    exact = [{"preset": name} for name in PRESETS if short(preset=name).on_trajectory]
    for algorithm in [*exact, {"estimator": "trajectory"}, {"estimator": "trajectory_sampled"}]:
        run_config(algorithm)
        with pytest.raises(ValueError, match=r"needs rollout\.decode\.unmask_confidence: top"):
            run_config(algorithm, decode_config=drawn)
    run_config(ELBO, decode_config=drawn)  # an ELBO claims no likelihood of the sampler


REPLAYING = {
    "trajectory": {"estimator": "trajectory"},
    "sampled steps": {"preset": "vrbpo"},
    "recorded edits": {**ELBO, "t2t_views": "recorded"},
}


@pytest.mark.parametrize("algorithm", REPLAYING.values(), ids=REPLAYING.keys())
def test_the_temperature_is_in_the_replay_and_top_p_which_is_not_is_refused(algorithm):
    learner, rows = learner_of(algorithm, WARM), rollouts(tiny_model(), [0, 5, 2], WARM)
    assert learner.update(rows)["mismatch/log_prob_abs"] < 1e-12
    assert learner_of(algorithm, DECODE).update(rows)["mismatch/log_prob_abs"] > 0.05  # as if it had been 1.0
    left_to_right = {"estimator": "autoregressive", "num_mc": 9}
    in_order = WARM.model_copy(update={"threshold": 1.0, "editing_threshold": 1.0, "unmask_fallback": "leftmost"})
    rows = rollouts(tiny_model(), [0, 5, 2], in_order)
    both = [learner_of(one, in_order) for one in (left_to_right, {"estimator": "trajectory"})]
    for one in both:
        one.update(rows)
    torch.testing.assert_close(*[flat_gradient(one.model) for one in both], rtol=0, atol=1e-12)
    for cut in ({"top_p": 0.9}, {"top_k": 3}):
        for refused in (algorithm, left_to_right):
            with pytest.raises(ValueError, match=r"use top_k: 0 and top_p: 1\.0"):
                run_config(refused, decode_config=DECODE.model_copy(update=cut))


def test_a_greedy_engine_gives_identical_groups_without_advantage_and_a_run_refuses_it():
    model, tokenizer, tokens = build_policy(SHAPE, "float64", "cpu", 0)
    prompts = Codec(tokenizer, 0).prompts([{"prompt": "1+2="}], 6, "rollout", 0)

    def group(config):
        made = decode(TorchEngine(model), prompts, config, tokens)
        rows = make_experience(prompts, made, [float(sum(one.token_ids)) for one in made], BaselineAdvantage())
        return {row.advantage for row in rows}, completion_metrics(made, 1.0)["completions/unique_fraction"]

    advantages, unique = group(RolloutDecode(**TEXT_DECODE))
    assert (len(advantages), unique) == (6, 1.0)
    advantages, unique = group(DecodeConfig(**{**TEXT_DECODE, "temperature": 0.0}))
    assert (advantages, unique) == ({0.0}, 1 / 6)
    with pytest.raises(ValueError, match="greater than 0"):
        RolloutConfig(decode={"temperature": 0.0})


def forwards(rank, settings):
    return len(make_views(batch_of(*rank), short(**settings), MASK, score_edits=True))


def test_forwards_per_rank_are_equal_where_draws_are_fixed_and_elsewhere_the_gradients_add_up():
    stubs = DECODE.model_copy(update={"max_completion_length": 1, "editing_threshold": 1.0})
    few, many = rollouts(tiny_model(), [3, 7], stubs), rollouts(tiny_model(), [0, 5, 2])
    for settings in (
        {**ELBO, "num_mc": 2, "anchor": 0.1},
        {**ELBO, "num_mc": 2, "t2t_views": "random"},
        {"estimator": "mean_field", "num_mc": 2, "prompt_mask_ratio": 0.2},
        {"estimator": "coupled", "num_mc": 3},
        {"estimator": "random_mask", "num_mc": 2},
    ):
        assert forwards(few, settings) == forwards(many, settings) == forwards(few + many, settings) > 1
    # Steps are what the decoder took: a collective operation per view would hang here.
    steps = {"estimator": "trajectory_sampled", "num_mc": 4}
    assert forwards(few, steps) < forwards(many, steps)
    slopes = []
    for rank in (few, many, few + many):
        learner = learner_of(steps)
        learner.update(rank)
        slopes.append(flat_gradient(learner.model) * len(rank) / 5)
    torch.testing.assert_close(slopes[0] + slopes[1], slopes[2], rtol=0, atol=1e-12)
