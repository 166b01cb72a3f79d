"""The learner against the full graph of its loss, its invariances, and the exact policy gradient by enumeration.

Equations of docs/math.md: every loss, penalty and correction (eq 16 to 29) in plain loops over scored positions; proxy
gradients (eq 46) against one graph; sampled steps (eq 15) and trajectories (eq 14) against autodiff of the return.
"""

import copy
import dataclasses
from typing import get_args

import pytest
import torch

import tiers
from oracles.all_trajectories import Sampler, Trajectory
from oracles.elbo import enumerated, mask_table
from oracles.losses import Batch, Row, Scored, loss
from oracles.plain_forward import action_log_probs, view_log_probs
from oracles.tiny_policy import DECODE, TOKENS, nudge, rollouts, run_config, tiny_model
from redraft.rl.config.choices import Choices, KlPenalty
from redraft.rl.config.losses import ClipLoss, TokenRatio
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.scalars import kinds_of, section_types
from redraft.rl.config.schema import RunConfig
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.microbatches import split_by_tokens
from redraft.rl.learner.minibatches import learned_rows, minibatches
from redraft.rl.learner.optim import freeze_router, make_optimizer, set_learning_rate
from redraft.rl.likelihood.score import score_view
from redraft.rl.models.llada2 import LLaDA2Model
from redraft.rl.protocols import Experience
from redraft.rl.views import make_views
from redraft.rl.views import view as view_module
from redraft.rl.views.canvas import collate
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens
from short_names import flat

SHORT = DECODE.model_copy(update={"max_completion_length": 6, "temperature": 0.8})
LENGTHS = [0, 5, 9, 2]
ALGORITHMS = {
    "trajectory": {"estimator": "trajectory"},
    "sampled trajectory, token ratio": {"estimator": "trajectory_sampled", "num_mc": 3, "t2t_weight": 0.5},
    "sampled trajectory, token ratio, KL": {"estimator": "trajectory_sampled", "num_mc": 3, "beta": 0.3},
    "sampled trajectory, sequence ratio, KL": {
        "estimator": "trajectory_sampled", "num_mc": 3, "ratio": "sequence", "gamma": 0.5, "beta": 0.3,
    },
    "ELBO, KL": {"estimator": "elbo", "ratio": "sequence", "num_mc": 3, "beta": 0.3},
    "ELBO, Bernoulli, as printed": {
        "estimator": "elbo", "ratio": "sequence", "num_mc": 2, "noise": "bernoulli", "stratify": False, "gamma": 0.0,
        "epsilon": 0.9, "epsilon_high": 9.0,
    },
    "ELBO with its own edits and an anchor": {
        "preset": "ebpo", "t2t_views": "recorded", "t2t_weight": 0.25, "t2t_epsilon": 0.1, "anchor": 0.05,
    },
    "ELBO, random drafts": {"preset": "ebpo", "t2t_views": "random", "t2t_weight": 0.25},
    "trajectory, anchor, CISPO": {"estimator": "trajectory_sampled", "loss_type": "cispo", "anchor": 0.05},
    "trajectory, engine correction": {"estimator": "trajectory", "rollout_correction": "token"},
    "trajectory, engine correction of sequences": {
        "estimator": "trajectory", "ratio": "sequence", "rollout_correction": "sequence", "correction_cap": 1.1,
    },
    "KL in the reward": {"estimator": "trajectory", "beta": 0.3, "kl": "k1_reward"},
    **{f"preset {name}": {"preset": name} for name in PRESETS},
}  # fmt: skip
COVERING = (
    "KL in the reward",
    "trajectory, anchor, CISPO",
    "sampled trajectory, sequence ratio, KL",
    *(f"preset {name}" for name in tiers.COVERING),
)
"""Algorithms among which each estimator, ratio, loss, normaliser and KL occurs; presets are settings of these."""
ONE_STEP = {"num_iterations": 1, "num_minibatches": 1, "target_drift": 0}
every_algorithm = pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(algorithm, id=name, marks=[] if name in COVERING else pytest.mark.heavy)
        for name, algorithm in ALGORITHMS.items()
    ],
)
every_choice = pytest.mark.parametrize("algorithm", [ALGORITHMS[name] for name in COVERING], ids=COVERING)


def make_learner(algorithm: dict, **trainer) -> Learner:
    return Learner(tiny_model(), run_config(algorithm, trainer, SHORT), TOKENS)


def gradients(model: LLaDA2Model) -> dict[str, torch.Tensor]:
    """Of the last optimizer step: the learner clears gradients before a step, not after."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float, scale: float = 1.0) -> None:
    assert one.keys() == other.keys()
    assert max(value.abs().max().item() for value in other.values()) > 1e-4
    for name, value in one.items():
        torch.testing.assert_close(value, scale * other[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def rows() -> list[Experience]:
    made = rollouts(tiny_model(), LENGTHS, SHORT)
    assert sum(row.completion.trace.num_edits for row in made) > 2
    pairs = [dataclasses.replace(row.prompt, group=index // 2) for index, row in enumerate(made)]
    return [dataclasses.replace(row, prompt=prompt) for row, prompt in zip(made, pairs, strict=True)]


def choices(algorithm: dict) -> set[tuple[str, str]]:
    """What of the kinds of choices an algorithm takes."""
    taken = flat(run_config(algorithm).algorithm)
    kinds = ("estimator", "ratio", "loss_type", "loss_normaliser", *["kl"] * (taken["beta"] > 0))
    return {(kind, taken[kind]) for kind in kinds if kind in taken}


def words(section: type, key: str) -> list[str]:
    """What a key of a section may say, or the kinds that it chooses from."""
    annotation = section.model_fields[key].annotation
    return [kind for one in section_types(annotation) for kind in kinds_of(one)] or list(get_args(annotation))


def test_the_covering_algorithms_take_every_choice_that_any_takes():
    every = set.union(*map(choices, ALGORITHMS.values()))
    assert every == set.union(*(choices(ALGORITHMS[name]) for name in COVERING))
    valid = {
        "estimator": words(Choices, "estimator"),
        "loss_type": words(Choices, "loss"),
        "ratio": words(ClipLoss, "ratio"),
        "loss_normaliser": words(TokenRatio, "normaliser"),
        "kl": words(KlPenalty, "kind"),
    }
    assert every == {(kind, word) for kind, found in valid.items() for word in found}


# --- the loss and its gradient ------------------------------------------------------------------------------------


class PlainTrainer:
    """The same update written out: plain forwards, one graph for the whole loss, no micro-batches."""

    def __init__(self, model: LLaDA2Model, reference: LLaDA2Model, config: RunConfig) -> None:
        self.model, self.reference, self.config = model, reference, config
        if config.trainer.freeze_router:
            freeze_router(model)
        self.optimizer = make_optimizer(model, config.trainer)

    def update(self, rows: list[Experience]) -> None:
        algorithm, start = self.config.algorithm, copy.deepcopy(self.model)
        tokens, parts = sum(len(row.completion.canvas_ids) for row in rows), [rows]
        if algorithm.update.num_minibatches > 1:
            parts = minibatches(learned_rows(rows, algorithm), algorithm, self.config.seed, 0)
        for _ in range(algorithm.update.num_iterations):
            for some in parts:
                share = len(some) / sum(map(len, parts))
                self.step(some, start, len(rows) * share, tokens * share)

    def step(self, rows: list[Experience], old: LLaDA2Model, num_rows: float, num_tokens: float) -> None:
        algorithm, decode = self.config.algorithm, self.config.rollout.decode
        batch = collate(rows, decode.block_length, TOKENS.pad, "cpu")
        terms: list[Scored] = []
        for number, view in enumerate(make_views(batch, algorithm, TOKENS.mask, score_edits=True)):
            replayed = view.denoising_step is not None or (
                algorithm.estimator.kind == "autoregressive" and not view.anchor
            )
            temperature = decode.temperature if replayed else 1.0
            new = view_log_probs(self.model, batch, view, TOKENS.mask, temperature)
            with torch.no_grad():
                before, anchor = (
                    view_log_probs(model, batch, view, TOKENS.mask, temperature) for model in (old, self.reference)
                )
            where = view.scored.nonzero().tolist()
            for (row, at), n, b, a in zip(where, new, before, anchor, strict=True):
                weight, edit = view.weight[row, at].item(), bool(view.edit[row, at])
                engine = float("nan") if view.rollout_log_prob is None else view.rollout_log_prob[row, at].item()
                scored = Scored(row, at, number, weight, edit, view.anchor, engine, n, b.item(), a.item())
                terms.append(scored)
        lengths = [len(row.completion.canvas_ids) for row in rows]
        some = [Row(row.advantage, n, row.prompt.group) for row, n in zip(rows, lengths, strict=True)]
        constants = Batch(num_rows, decode.max_completion_length, num_tokens)
        set_learning_rate(self.optimizer, self.config.trainer, 0)
        self.optimizer.zero_grad()
        loss(terms, some, constants, algorithm).backward()
        self.optimizer.step()


@every_choice
def test_the_gradient_by_proxy_is_that_of_the_full_graph(algorithm, rows):
    rows = [*rows[:3], dataclasses.replace(rows[3], advantage=0.0)]
    learner = make_learner({**algorithm, "num_iterations": 1}, freeze_router=False)
    reference = tiny_model()
    nudge(learner.model, 0.05)
    plain = PlainTrainer(copy.deepcopy(learner.model), reference, learner.config)
    learner.update(rows)
    plain.update(rows)
    assert_equal(gradients(learner.model), gradients(plain.model), atol=1e-10)


@every_algorithm
def test_later_iterations_and_minibatches_are_off_policy_steps_of_the_full_graph(algorithm, rows):
    several = {**algorithm, "num_iterations": 2, "num_minibatches": 2, "redraw": False}
    learner, rows = make_learner(several, learning_rate=0.0005), rows[:4]
    plain = PlainTrainer(copy.deepcopy(learner.model), tiny_model(), learner.config)
    metrics = learner.update(rows)
    plain.update(rows)
    assert metrics["objective/log_ratio_abs"] > 0.001
    assert_equal(gradients(learner.model), gradients(plain.model), atol=1e-8)
    assert_equal(learner.model.state_dict(), plain.model.state_dict(), atol=1e-7)


def test_the_off_policy_comparison_meets_clipped_ratios(rows):
    learner = make_learner({"estimator": "trajectory", "num_iterations": 2}, learning_rate=0.02)
    assert 0 < learner.update(rows)["objective/clip_fraction"] < 1


@pytest.mark.parametrize("target", [1e-9, 1e3])
def test_a_policy_that_moves_too_far_in_one_batch_is_slowed_down_in_the_next(target, rows):
    learner = make_learner({"preset": "vrbpo", "target_drift": target}, learning_rate=0.01)
    first, second = learner.update(rows), learner.update(rows)
    assert first["objective/drift"] > 1e-6
    slower = {1e-9: 0.25, 1e3: 1.0}[target]
    assert second["objective/learning_rate"] == pytest.approx(slower * first["objective/learning_rate"])


def test_the_drift_is_half_the_mean_squared_log_ratio_of_the_last_step(rows):
    learner = make_learner({"estimator": "trajectory", "num_iterations": 2}, learning_rate=0.01)
    before = copy.deepcopy(learner.model)
    found = learner.update(rows)["objective/drift"]
    once = make_learner({"estimator": "trajectory"}, learning_rate=0.01)
    once.update(rows)
    batch = collate([row for row in rows if row.advantage], 4, TOKENS.pad, "cpu")
    gaps = [
        score_view(once.model, batch, view, TOKENS.mask, SHORT.temperature).log_prob
        - score_view(before, batch, view, TOKENS.mask, SHORT.temperature).log_prob
        for view in make_views(batch, once.config.algorithm, TOKENS.mask, score_edits=True)
    ]
    assert found == pytest.approx((torch.cat(gaps) ** 2 / 2).mean().item(), rel=1e-6)


@every_choice
@pytest.mark.parametrize("tokens", [1, 60])
def test_the_gradient_does_not_depend_on_the_micro_batches_or_the_order_of_rows(algorithm, tokens, rows):
    algorithm = {**algorithm, **ONE_STEP}  # minibatches follow the order of rows
    whole, split = make_learner(algorithm), make_learner(algorithm, tokens_per_microbatch=tokens)
    assert len(split_by_tokens(rows, 4, tokens)) > 1
    assert len(split_by_tokens(rows, 4, whole.config.trainer.tokens_per_microbatch)) == 1
    metrics = [whole.update(rows), split.update(rows[::-1])]
    assert_equal(gradients(split.model), gradients(whole.model), atol=1e-12)
    for name in set(metrics[0]) - {"time/update_s"}:
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-12), name


@pytest.mark.parametrize("tokens", [1, 60])
def test_off_policy_steps_do_not_depend_on_the_micro_batches_either(tokens, rows):
    algorithm = {"estimator": "elbo", "ratio": "sequence", "beta": 0.1, "num_iterations": 2, "num_minibatches": 2}
    algorithm = {**algorithm, **ONE_STEP}  # minibatches follow the order of rows
    whole, split = make_learner(algorithm), make_learner(algorithm, tokens_per_microbatch=tokens)
    whole.update(rows)
    split.update(rows)
    assert_equal(gradients(split.model), gradients(whole.model), atol=1e-10)


def test_rows_without_advantage_count_in_the_mean_and_have_no_gradient(rows):
    idle = [dataclasses.replace(row, advantage=0.0) for row in rows[:2]]
    alone, together = make_learner({}), make_learner({})
    alone.update(rows)
    metrics = together.update([idle[0], *rows, idle[1]])
    assert_equal(gradients(together.model), gradients(alone.model), atol=1e-12, scale=4 / 6)
    assert metrics["objective/learned_rows"] == 4


def test_a_batch_without_any_advantage_changes_nothing_but_the_version(rows):
    learner = make_learner({})
    before = copy.deepcopy(learner.model.state_dict())
    metrics = learner.update([dataclasses.replace(row, advantage=0.0) for row in rows])
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert learner.policy_version == 1
    assert metrics["objective/learned_rows"] == 0


# --- ratios -------------------------------------------------------------------------------------------------------


@every_choice
def test_two_scorings_of_one_policy_are_equal_bit_for_bit(algorithm, rows):
    config, model = run_config(algorithm, decode_config=SHORT), tiny_model(dtype=torch.float32)
    batch = collate(rows, 4, TOKENS.pad, "cpu")
    for view in make_views(batch, config.algorithm, TOKENS.mask, score_edits=True):
        with_graph = score_view(model, batch, view, TOKENS.mask, 0.8).log_prob
        with torch.no_grad():
            without = score_view(model, batch, view, TOKENS.mask, 0.8).log_prob
        assert torch.equal(with_graph, without)


@pytest.mark.parametrize("algorithm", [{"estimator": "trajectory_sampled"}, {"preset": "ebpo"}], ids=str)
def test_the_anchors_value_is_reported_whether_or_not_the_first_step_scores_beforehand(algorithm, rows):
    metrics = [
        make_learner({**algorithm, "anchor": 0.05, "num_iterations": n}, learning_rate=1e-12).update(rows)
        for n in (1, 2)  # a single step needs no pass without a graph, the first of two does
    ]
    assert metrics[0]["objective/anchor"] < -0.1
    assert metrics[0]["objective/anchor"] == pytest.approx(metrics[1]["objective/anchor"], abs=1e-9)


@every_choice
def test_every_ratio_is_exactly_one_before_the_first_update(algorithm, rows):
    metrics = make_learner({**algorithm, **ONE_STEP}).update(rows)
    assert metrics["objective/log_ratio_abs"] == 0.0
    assert metrics["objective/clip_fraction"] == 0.0
    assert metrics.get("objective/kl", 0.0) == 0.0


def test_the_first_of_many_steps_is_the_same_as_an_only_step(rows):
    # With more than one step the old log-probs are computed, with one they are known to cancel: same result.
    once, twice = make_learner({}, learning_rate=1e-12), make_learner({"num_iterations": 2}, learning_rate=1e-12)
    once.update(rows)
    metrics = twice.update(rows)
    assert metrics["objective/log_ratio_abs"] < 1e-9
    assert_equal(gradients(twice.model), gradients(once.model), atol=1e-9)


@pytest.mark.parametrize("algorithm", [{"estimator": "trajectory"}, {"preset": "vrbpo"}], ids=str)
def test_the_engines_log_probs_are_the_learners_however_far_it_moves_later(algorithm, rows):
    metrics = make_learner(algorithm, learning_rate=0.01).update(rows)
    assert metrics["mismatch/log_prob_abs"] < 1e-12


# --- guards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(advantage, rows):
    learner = make_learner({})
    before = copy.deepcopy(learner.model.state_dict())
    with pytest.raises(FloatingPointError, match="policy version 0"):
        learner.update([dataclasses.replace(rows[0], advantage=advantage), *rows[1:]])
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert learner.policy_version == 0


@pytest.mark.parametrize("frozen", [True, False])
def test_the_router_learns_only_if_it_is_not_frozen(frozen, rows):
    learner = make_learner({}, freeze_router=frozen, weight_decay=0.1)
    before = copy.deepcopy(learner.model.state_dict())
    learner.update(rows)
    changed = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    routers = {name for name in before if ".gate." in name}
    assert routers == {"layers.1.mlp.gate.weight", "layers.1.mlp.gate.expert_bias"}
    assert changed & routers == (set() if frozen else {"layers.1.mlp.gate.weight"})
    assert changed >= before.keys() - routers


def test_the_gradient_norm_is_clipped(rows):
    learner, free = make_learner({}, max_grad_norm=0.01), make_learner({})
    norm = free.update(rows)["objective/grad_norm"]
    assert learner.update(rows)["objective/grad_norm"] == pytest.approx(norm, rel=1e-12)
    assert norm > 0.1
    assert_equal(gradients(learner.model), gradients(free.model), atol=1e-7, scale=0.01 / norm)


@torch.no_grad()
def trajectory_likelihood(model: LLaDA2Model, row: Experience) -> float:
    return sum(part.item() for part in action_log_probs(model, row.prompt.token_ids, row.completion.trace, 4, 0.8))


def exact_elbo(model: LLaDA2Model, row: Experience) -> float:
    begin, tokens = len(row.prompt.token_ids), [*row.prompt.token_ids, *row.completion.canvas_ids]
    starts = range(begin // 4 * 4, len(tokens), 4)
    blocks = [(start, [i for i in range(start, start + 4) if i >= begin]) for start in starts]
    return sum(enumerated(mask_table(model, tokens, start, editable, 4, TOKENS.mask)) for start, editable in blocks)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(
    ("algorithm", "likelihood"),
    [("trajectory", trajectory_likelihood), ("ELBO, KL", exact_elbo)],
    ids=["trajectory", "ELBO"],
)
def test_a_small_step_makes_good_completions_likelier_and_bad_ones_less_likely(advantage, algorithm, likelihood, rows):
    for row in rows[:2]:
        # Small indeed: a larger step can change which experts a token goes to.
        learner = make_learner(ALGORITHMS[algorithm], learning_rate=1e-6)
        before = likelihood(learner.model, row)
        learner.update([dataclasses.replace(row, advantage=advantage)])
        assert (likelihood(learner.model, row) - before) * advantage > 1e-5


# --- the exact policy gradient ------------------------------------------------------------------------------------

SMALL = DECODE.model_copy(
    update={"block_length": 2, "threshold": 0.6, "max_post_steps": 2, "max_completion_length": 4, "temperature": 0.8}
)
SMALL_TOKENS = SpecialTokens(mask=2, pad=0, stops=())


@dataclasses.dataclass(frozen=True)
class World:
    """A sampler with two real tokens, all its trajectories, and the gradient of its expected return."""

    model: LLaDA2Model
    trajectories: list[Trajectory]
    rows: list[Experience]
    gradient: dict[str, torch.Tensor]


def returns(canvas: tuple[int, ...]) -> float:
    """A reward without structure."""
    index = sum(token * 2**place for place, token in enumerate(canvas))
    return torch.randn(2 ** len(canvas), generator=torch.Generator().manual_seed(3))[index].item()


def make_world(prompt: tuple[int, ...], num_blocks: int) -> World:
    model = tiny_model(vocab_size=3, seed=1)
    trajectories = Sampler(model, prompt, SMALL, mask=2).trajectories(num_blocks)
    expected = sum(t.log_prob().exp() * returns(t.canvas) for t in trajectories)
    expected.backward()
    exact = gradients(model)
    model.zero_grad()
    rows = []
    for index, trajectory in enumerate(trajectories):
        generated = trajectory.canvas[len(prompt) :]
        completion = Completion(f"{index}", generated, generated, "length", trajectory.trace(2))
        # The mean over draws becomes a sum over all trajectories, weighted with their probabilities.
        share = trajectory.log_prob().exp().item() * len(trajectories)
        rows.append(Experience(Prompt(f"{index}", prompt, 0), completion, share * returns(trajectory.canvas), index))
    return World(model, trajectories, rows, exact)


@pytest.fixture(scope="module", params=[((), 1), ((0, 1), 2)], ids=["one block", "two blocks after a prompt"])
def world(request) -> World:
    return make_world(*request.param)


def learner_gradient(world: World, algorithm: dict) -> dict[str, torch.Tensor]:
    """Minus the gradient of the learner's loss, in units of the mean return."""
    config = run_config(algorithm, {"freeze_router": False}, SMALL)
    model = copy.deepcopy(world.model)
    Learner(model, config, SMALL_TOKENS).update(world.rows)
    scale = SMALL.max_completion_length if config.algorithm.loss.ratio.kind == "token" else 1.0
    return {name: -scale * value for name, value in gradients(model).items()}


def cosine(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    flat = [torch.cat([values[name].flatten() for name in sorted(values)]) for values in (one, other)]
    return torch.nn.functional.cosine_similarity(*flat, dim=0).item()


def test_the_enumerated_world_has_edits_and_long_ways(world):
    assert sum(t.log_prob().exp().item() for t in world.trajectories) == pytest.approx(1.0, abs=1e-12)
    edited = [t for t in world.trajectories if any(old != 2 for _, _, old, _ in t.actions)]
    assert sum(t.log_prob().exp().item() for t in edited) > 0.4
    assert any(old == new for t in edited for _, _, old, new in t.actions)


@pytest.mark.parametrize("ratio", [{"ratio": "token"}, {"ratio": "sequence", "gamma": 0.0}], ids=["token", "sequence"])
def test_the_trajectory_gradient_is_the_exact_gradient_of_the_expected_return(world, ratio):
    found = learner_gradient(world, {"estimator": "trajectory", **ratio})
    assert_equal(found, world.gradient, atol=1e-10)


def test_sampled_steps_have_the_exact_gradient_as_their_mean(world, monkeypatch):
    most = max(len({f for f, p, *_ in t.actions if p // 2 == b}) for t in world.trajectories for b in (0, 1))
    assert 3 <= most <= 4
    total: dict[str, torch.Tensor] = {}
    for point in range(12):  # midpoints of a grid that 2, 3 and 4 steps divide: the whole draw space

        def grid(seed, stream, position, at=(point + 0.5) / 12):
            return torch.full(position.shape, at, dtype=torch.float64)

        monkeypatch.setattr(view_module, "uniform", grid)
        for name, value in learner_gradient(world, {"estimator": "trajectory_sampled", "num_mc": 1}).items():
            total[name] = total.get(name, 0.0) + value / 12
    assert_equal(total, world.gradient, atol=1e-10)


def test_leaving_out_the_sampled_edits_is_not_the_exact_gradient(world):
    found = learner_gradient(world, {"estimator": "trajectory", "t2t_weight": 0.0})
    assert cosine(found, world.gradient) < 0.99


def test_an_elbo_gradient_is_a_biased_surrogate_of_a_thresholded_sampler(world):
    algorithm = {"estimator": "elbo", "ratio": "sequence", "num_mc": 16, "gamma": 0.0}
    assert cosine(learner_gradient(world, algorithm), world.gradient) < 0.97


# --- route replay -------------------------------------------------------------------------------------------------


def test_rollout_routes_are_replayed_in_every_pass_and_their_agreement_is_measured():
    decode_config = SHORT.model_copy(update={"record_routes": True})
    rows = rollouts(tiny_model(), LENGTHS, decode_config)
    found = {}
    for mode in ("compare", "rollout"):
        config = run_config({"estimator": "trajectory", "route_replay": mode}, {}, decode_config)
        learner = Learner(tiny_model(), config, TOKENS)
        assert learner.update(rows)["moe/router_agreement"] == 1.0  # the very weights that made the rollouts
        nudge(learner.model, 0.2)
        found[mode] = learner.update(rows)
    assert found["compare"]["moe/router_agreement"] == found["compare"]["moe/live_agreement"] < 1.0
    assert found["rollout"]["moe/router_agreement"] == 1.0
    assert found["rollout"]["moe/live_agreement"] < 1.0


def test_the_old_policys_routes_are_replayed_in_later_steps_and_keep_the_router_gradient(rows):
    algorithm = {"preset": "ebpo", "route_replay": "old", "num_iterations": 3}
    learner = make_learner(algorithm, learning_rate=0.02, freeze_router=False)
    metrics = learner.update(rows)
    assert metrics["moe/router_agreement"] == 1.0
    assert metrics["moe/live_agreement"] < 1.0
    assert gradients(learner.model)["layers.1.mlp.gate.weight"].abs().max() > 0


def test_replaying_the_old_routes_at_the_old_weights_changes_nothing(rows):
    plain = make_learner({"preset": "ebpo", "num_minibatches": 2}, learning_rate=1e-12)
    replayed = make_learner({"preset": "ebpo", "num_minibatches": 2, "route_replay": "old"}, learning_rate=1e-12)
    plain.update(rows)
    replayed.update(rows)
    assert_equal(gradients(replayed.model), gradients(plain.model), atol=1e-12)
