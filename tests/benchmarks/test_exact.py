"""The exact machinery of the benches, against the enumeration of every trajectory and of every order."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from benchmarks.estimators.exact import BlockSpace, block_logits, expected_return, make_chain, visits
from oracles.all_trajectories import Sampler, Trajectory
from oracles.elbo import any_order, count_average, enumerated, level_integral, mask_table
from oracles.lattice import order_average, random_order_log_likelihood
from oracles.tiny_policy import tiny_model
from redraft.rl.config.sections import RolloutDecode
from redraft.rl.likelihood.score import score_view
from redraft.rl.protocols import Experience
from redraft.rl.views import StepSchedule, trajectory_views
from redraft.rl.views.canvas import CanvasBatch, collate
from redraft.rollout.trajectory import Completion, Prompt

MODES = {
    "Q-like": {"threshold": 0.6, "editing_threshold": 0.4},
    "S-like": {"threshold": 0.5, "editing_threshold": 0.0},
    "LLaDA2.0, no edits": {"threshold": 0.6, "editing_threshold": 1.0},
    "one at a time, the most confident": {"threshold": 1.0, "editing_threshold": 1.0},
    "edits but no mask-free forward": {"threshold": 0.6, "editing_threshold": 0.3, "max_post_steps": 0},
    "one at a time, left to right": {"threshold": 1.0, "editing_threshold": 1.0, "unmask_fallback": "leftmost"},
    "tempered": {"threshold": 0.6, "editing_threshold": 0.4, "temperature": 0.6},
}
SHAPES = {"two tokens, three slots": (3, 3), "three tokens, two slots": (4, 2)}


def case(mode: str, shape: str):
    """A policy, its states and config, a prompt of one block, and a reward without symmetries."""
    vocab_size, length = SHAPES[shape]
    space = BlockSpace(length, vocab_size, mask=vocab_size - 1)
    config = RolloutDecode(**{"block_length": length, "max_post_steps": 2, **MODES[mode]})
    reward = torch.rand(space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    prompt = tuple(range(vocab_size - 1))[:length] + (0,) * max(0, length - vocab_size + 1)
    return tiny_model(vocab_size, seed=2), space, config, reward, prompt


def every_case(test):
    test = pytest.mark.parametrize("mode", MODES)(test)
    return pytest.mark.parametrize("shape", SHAPES)(test)


def gradient(loss: Tensor, model: torch.nn.Module, retain: bool = False) -> Tensor:
    """Of every weight, as one vector."""
    weights = list(model.parameters())
    parts = torch.autograd.grad(loss, weights, retain_graph=retain, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def final(trajectory: Trajectory, space: BlockSpace) -> int:
    return int(space.index(torch.tensor(trajectory.canvas[-space.length :])))


def one_batch(trajectories: list[Trajectory], prompt: tuple[int, ...], space: BlockSpace) -> CanvasBatch:
    """The trajectories as the decoder would have handed them to the learner."""
    rows = []
    for trajectory in trajectories:
        ids = trajectory.canvas[len(prompt) :]
        completion = Completion("p", ids, ids, "length", trajectory.trace(space.mask))
        rows.append(Experience(Prompt("p", prompt, 0), completion, 1.0, noise_seed=0))
    return collate(rows, space.length, 0, "cpu")


@every_case
def test_return_and_gradient_equal_those_of_all_trajectories(mode: str, shape: str):
    model, space, config, reward, prompt = case(mode, shape)
    trajectories = Sampler(model, prompt, config, space.mask).trajectories(1)
    slow = torch.stack([one.log_prob().exp() * reward[final(one, space)] for one in trajectories]).sum()
    chain = make_chain(block_logits(model, prompt, space), space, config)
    fast = expected_return(chain, reward, space, config.post_steps)[space.blank]
    assert abs(fast.item() - slow.item()) < 1e-10
    expected = gradient(slow, model)
    assert expected.norm() > 1e-2
    torch.testing.assert_close(gradient(fast, model), expected, rtol=0, atol=1e-10)


@every_case
def test_the_trajectory_views_of_all_trajectories_together_have_the_true_policy_gradient(mode: str, shape: str):
    model, space, config, reward, prompt = case(mode, shape)
    trajectories = Sampler(model, prompt, config, space.mask).trajectories(1)
    batch = one_batch(trajectories, prompt, space)
    weight = torch.stack([one.log_prob().exp().detach() * reward[final(one, space)] for one in trajectories])
    surrogate = torch.zeros((), dtype=torch.float64)
    for view in trajectory_views(batch, StepSchedule(None), space.mask):
        scores = score_view(model, batch, view, space.mask, config.temperature)
        surrogate = surrogate + (weight[scores.sequence] * view.weight[view.scored] * scores.log_prob).sum()
    chain = make_chain(block_logits(model, prompt, space), space, config)
    exact = expected_return(chain, reward, space, config.post_steps)[space.blank]
    torch.testing.assert_close(gradient(surrogate, model), gradient(exact, model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["Q-like", "S-like"])
def test_the_gradient_needs_the_edits_where_there_are_any(mode: str):
    model, space, config, reward, prompt = case(mode, "two tokens, three slots")
    chain = make_chain(block_logits(model, prompt, space), space, config)
    assert chain.edit.any()
    exact = expected_return(chain, reward, space, config.post_steps)[space.blank]
    (slope,) = torch.autograd.grad(exact, chain.log_prob, retain_graph=True)
    # The mask token has no probability and no slope: 0 times its -inf is left out.
    by_kind = [
        gradient((slope * chosen[..., None] * chain.log_prob.nan_to_num(neginf=0.0)).sum(), model, retain=True)
        for chosen in (chain.unmask, chain.edit)
    ]
    whole = gradient(exact, model)
    torch.testing.assert_close(by_kind[0] + by_kind[1], whole, rtol=0, atol=1e-10)
    assert by_kind[1].norm() > 1e-2 * whole.norm()


@every_case
def test_final_blocks_have_the_probabilities_of_their_trajectories_and_these_sum_to_one(mode: str, shape: str):
    model, space, config, _, prompt = case(mode, shape)
    trajectories = Sampler(model, prompt, config, space.mask).trajectories(1)
    slow, forwards = torch.zeros(space.size, dtype=torch.float64), 0.0
    for one in trajectories:
        slow[final(one, space)] += one.log_prob().exp().item()
        forwards += one.log_prob().exp().item() * one.forward
    chain = make_chain(block_logits(model, prompt, space).detach(), space, config)
    reached = visits(chain, space, config.post_steps)
    torch.testing.assert_close(reached.final, slow, rtol=0, atol=1e-12)
    assert abs(reached.final.sum().item() - 1) < 1e-12
    assert abs(reached.forwards.sum().item() - forwards) < 1e-10


@every_case
def test_the_return_is_the_mean_reward_of_the_final_blocks(mode: str, shape: str):
    model, space, config, reward, prompt = case(mode, shape)
    chain = make_chain(block_logits(model, prompt, space).detach(), space, config)
    value = expected_return(chain, reward, space, config.post_steps)[space.blank]
    assert abs(value.item() - (visits(chain, space, config.post_steps).final @ reward).item()) < 1e-12


def test_what_was_decoded_cannot_have_masks_whatever_their_reward():
    model, space, config, reward, prompt = case("Q-like", "two tokens, three slots")
    chain = make_chain(block_logits(model, prompt, space).detach(), space, config)
    values = [
        expected_return(chain, torch.where(space.full, reward, absurd), space, config.post_steps)[space.blank].item()
        for absurd in (0.0, 1e6)
    ]
    assert values[0] == values[1]


def test_the_random_order_chain_draws_each_block_with_its_lattice_likelihood():
    model, space, config, _, prompt = case("LLaDA2.0, no edits", "two tokens, three slots")
    chain = make_chain(block_logits(model, prompt, space).detach(), space, config, order="random")
    reached = visits(chain, space, post_steps=0).final
    assert abs(reached.sum().item() - 1) < 1e-12
    for block in itertools.product(range(2), repeat=3):
        table = mask_table(model, [*prompt, *block], 3, [3, 4, 5], 3, space.mask)
        likelihood = random_order_log_likelihood(table)
        assert abs(likelihood - order_average(table)) < 1e-12
        assert abs(likelihood - math.log(reached[space.index(torch.tensor(block))].item())) < 1e-10


def test_the_elbo_has_four_equal_forms_and_lies_below_the_random_order_likelihood():
    model = tiny_model(5, seed=1)
    for block in [(0, 1, 2, 3), (3, 3, 0, 1)]:
        table = mask_table(model, [1, 2, 0, 3, *block], 4, [4, 5, 6, 7], 4, 4)
        forms = [level_integral(table), count_average(table), enumerated(table), any_order(table)]
        assert max(forms) - min(forms) < 1e-10
        assert forms[0] < random_order_log_likelihood(table) - 1e-3


def test_a_sampler_without_an_exact_likelihood_is_refused():
    model, space, config, _, prompt = case("Q-like", "two tokens, three slots")
    logits = block_logits(model, prompt, space).detach()
    for wrong in ({"unmask_confidence": "drawn"}, {"edit_sampling": "argmax"}, {"top_k": 2}, {"top_p": 0.9}):
        with pytest.raises(ValueError, match="exact chain"):
            make_chain(logits, space, config.model_copy(update=wrong))


def test_too_many_states_and_half_blocks_of_prompt_are_refused():
    with pytest.raises(ValueError, match="16807 states; at most 8192"):
        BlockSpace(5, 7, mask=6)
    with pytest.raises(ValueError, match="not a whole number of blocks of 3"):
        block_logits(tiny_model(3), (0,), BlockSpace(3, 3, mask=2))
