"""The sizes of a step by hand, and as many forwards as the learner makes."""

import pytest

from plans import MINI, TINY, plan_config, plan_setup
from redraft.rl.plan.batch import count_passes, count_views, plan_batch


def test_the_sizes_of_a_step_by_hand():
    # 64 prompts of 8 completions; prompts of 8 and completions of 1000 tokens in blocks of 32.
    words = ["rollout.prompts_per_step=64", "rollout.num_generations=8", "rollout.decode.block_length=32"]
    batch = plan_batch(plan_setup(MINI, 8, *words, "rollout.decode.max_completion_length=1000"))
    assert batch.completions == 512
    assert batch.sequence_tokens == 1024  # 1008 in whole blocks
    assert batch.composite_tokens == 2 * 1024 - 0  # the prompt ends in the first block, so all blocks have a noisy copy
    assert batch.sequences_per_microbatch == 16384 // 2048
    assert (batch.optimizer_steps, batch.sequences_per_optimizer_step, batch.sequences_per_rank) == (2, 256, 32)
    assert batch.microbatches == 4
    assert (batch.passes.old, batch.passes.current, batch.passes.gradient) == (0.5, 0.5, 1)
    assert batch.learner_forwards == batch.learner_backwards == 4 * 2 * 2  # micro-batches, optimizer steps, views
    assert batch.learner_tokens == 2 * 32 * 2048 * 2 * 2
    assert batch.decoder_forwards == pytest.approx(1000 / 3)


def test_a_long_prompt_has_no_noisy_copy():
    setup = plan_setup(TINY, 1, "rollout.decode.block_length=4")
    assert setup.composite_tokens == 2 * 16 - 8


def test_a_completion_beyond_the_budget_sets_the_size_of_a_micro_batch():
    setup = plan_setup(TINY, 1, "trainer.tokens_per_microbatch=10")
    assert setup.microbatch_tokens == setup.composite_tokens == 24
    assert plan_batch(setup).sequences_per_microbatch == 1


def test_dynamic_sampling_decodes_up_to_all_rounds():
    batch = plan_batch(plan_setup(TINY, 1, "rollout.max_sampling_rounds=4"))
    assert batch.most_completions == 4 * batch.completions


VIEWS = {
    "algorithm.estimator={kind: trajectory_sampled, num_mc: 5}": 5,
    "algorithm.estimator=trajectory": 3,  # a block of 8 takes ceil(8 / 3) forwards
    "algorithm.estimator={kind: trajectory, cut: {kind: shrink, steps: 2}}": 2,
    "algorithm.estimator={kind: trajectory, cut: {kind: merge, segments: 2}}": 2,
    "algorithm.estimator={kind: trajectory, cut: {kind: merge, segments: 9}}": 3,
    "algorithm={estimator: {kind: elbo, num_mc: 4, edits: {kind: draft, num_views: 2}}, loss: {ratio: sequence}}": 6,
    "algorithm={estimator: coupled}": 3,
    "algorithm={estimator: mean_field, regulariser: {anchor: {weight: 0.1, num_mc: 2}}}": 3,
    "algorithm={estimator: elbo, loss: {ratio: sequence}, regulariser: {anchor: {weight: 0.1}}}": 2,
}


@pytest.mark.parametrize("words", VIEWS)
def test_views_of_a_completion(words):
    setup = plan_setup(TINY, 1, words)
    assert count_views(setup.config.algorithm, setup) == VIEWS[words]


# minibatches, iterations, redraw -> old, current, reference passes per view, by the rules of `learner.learner`
PASSES = {
    "update={num_minibatches: 1, target_drift: 0}": (0, 0, 0),
    "update={num_minibatches: 4}": (3 / 4, 3 / 4, 0),
    "update={num_minibatches: 2, num_iterations: 3}": (1, 5 / 2, 0),
    "update={num_minibatches: 2, num_iterations: 3, redraw: true}": (5 / 2, 5 / 2, 0),
    "regulariser.kl.beta=0.1": (1, 1 / 2, 1),
    "correction.route_replay=old": (1, 1 / 2, 0),
}


@pytest.mark.parametrize("words", PASSES)
def test_passes_of_a_view(words):
    algorithm = plan_config(f"algorithm.{words}").algorithm
    passes = count_passes(algorithm, views=2)
    assert (passes.old, passes.current, passes.reference) == pytest.approx(PASSES[words])
    assert passes.gradient == algorithm.update.num_iterations
    assert passes.without_gradient == pytest.approx(sum(PASSES[words]))


def test_drafts_and_path_checks_are_passes_too():
    drafts = plan_config("algorithm={estimator: {kind: mean_field, num_mc: 3, edits: draft}}").algorithm
    assert count_passes(drafts, views=4).draft == 1 / 4
    checked = plan_config("algorithm={estimator: {lookahead: 0}, correction: {path_check: log}}").algorithm
    assert count_passes(checked, views=2).path_check == 1
