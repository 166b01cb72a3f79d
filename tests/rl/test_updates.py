"""What an update scores and in which order: only what it uses, in minibatches that a resumed run draws again."""

import dataclasses
import itertools

import pytest
import torch

from oracles.noise_draws import plain_row
from oracles.tiny_policy import DECODE, TOKENS, flat_gradient, rollouts, run_config, tiny_model
from redraft.rl.config.presets import PRESETS
from redraft.rl.learner import learner as learner_module
from redraft.rl.learner import scoring
from redraft.rl.learner.learner import Learner
from redraft.rl.learner.minibatches import learned_rows, minibatches
from redraft.rl.protocols import Experience
from short_names import short
from tiers import covering_presets

SHORT = DECODE.model_copy(update={"max_completion_length": 6})
DPO = {"estimator": "elbo", "ratio": "sequence", "num_mc": 2, "loss_type": "dpo", "dpo_beta": 2.0}


def make_learner(algorithm: dict, dtype: torch.dtype = torch.float64, **trainer) -> Learner:
    return Learner(tiny_model(dtype=dtype), run_config(algorithm, trainer, SHORT), TOKENS)


def grouped(rows: list[Experience], groups: list[int], advantages: list[float] | None = None) -> list[Experience]:
    """The rows, with groups and perhaps advantages of their own."""
    given = [row.advantage for row in rows] if advantages is None else advantages
    return [
        dataclasses.replace(row, prompt=dataclasses.replace(row.prompt, group=group), advantage=advantage)
        for row, group, advantage in zip(rows, groups, given, strict=True)
    ]


@pytest.fixture(scope="module")
def rows() -> list[Experience]:
    return rollouts(tiny_model(), [0, 5, 9, 2, 3, 1, 6, 4], SHORT)


@pytest.fixture
def passes(monkeypatch) -> list[bool]:
    """One entry per forward of the network over a view: whether it kept a graph."""
    seen: list[bool] = []
    score = scoring.score_view

    def counted(*arguments):
        seen.append(torch.is_grad_enabled())
        return score(*arguments)

    monkeypatch.setattr(scoring, "score_view", counted)
    return seen


# --- old values ---------------------------------------------------------------------------------------------------

SPENT = {
    # algorithm, forwards with a graph and without one; two views of one micro-batch per optimizer step
    "default: the first minibatch has no old values": ({"preset": "vrbpo"}, 4, 4),
    "all minibatches but the first": ({"preset": "vrbpo", "num_minibatches": 4}, 8, 12),
    "one step needs none": ({"preset": "ebpo"}, 2, 0),
    "a second pass needs all": ({"preset": "vrbpo", "num_iterations": 2}, 8, 10),
    "a second pass on new draws needs only its own": ({"preset": "stabledrl", "num_iterations": 2}, 4, 4),
    "a KL needs old and reference values": ({"preset": "ebpo", "beta": 0.1}, 2, 4),
    "so does a correction by the engine": ({"preset": "vrbpo", "rollout_correction": "token"}, 4, 6),
    "routes of the old policy are those of its pass": ({"preset": "ebpo", "route_replay": "old"}, 2, 2),
}


@pytest.mark.parametrize(("algorithm", "with_graph", "without"), SPENT.values(), ids=SPENT.keys())
def test_old_values_are_computed_only_where_they_are_used(algorithm, with_graph, without, rows, passes):
    make_learner(algorithm).update(rows)
    assert (passes.count(True), passes.count(False)) == (with_graph, without)


@pytest.mark.parametrize(
    "algorithm",
    [
        *({"preset": name} for name in PRESETS),
        {"preset": "vrbpo", "anchor": 0.1},
        {"preset": "stabledrl", "num_iterations": 2},
    ],
    ids=str,
)
def test_the_weights_are_those_of_an_update_that_computes_all_old_values_bit_for_bit(algorithm, rows, monkeypatch):
    found = []
    for always in (False, True):
        if always:
            monkeypatch.setattr(Learner, "_needs_old", lambda *_: True)
        learner = make_learner({**algorithm, "num_iterations": algorithm.get("num_iterations", 1)}, torch.float32)
        found.append((learner.update(rows), learner.update(rows), learner.model.state_dict()))
    (spared_1, spared_2, spared), (full_1, full_2, full) = found
    assert all(torch.equal(value, full[name]) for name, value in spared.items())
    assert spared_1.keys() == full_1.keys()
    for name in spared_1.keys() - {"time/update_s"}:
        assert spared_1[name] == pytest.approx(full_1[name], rel=1e-5, abs=1e-6), name
        assert spared_2[name] == pytest.approx(full_2[name], rel=1e-5, abs=1e-6), name


# --- minibatches --------------------------------------------------------------------------------------------------


def plain_rows(groups: list[int]) -> list[Experience]:
    return grouped([plain_row(2, 4, index) for index in range(len(groups))], groups)


def seeds(parts: list[list[Experience]]) -> list[list[int]]:
    return [[row.noise_seed for row in part] for part in parts]


BY_TASK = [group for group in range(16) for _ in range(4)]  # groups 0 to 7 are of one task, 8 to 15 of another


def test_data_sorted_by_task_gives_every_minibatch_both_tasks():
    for version in range(20):
        parts = minibatches(plain_rows(BY_TASK), short(), 0, version)
        assert [len(part) for part in parts] == [32, 32]
        first = {row.prompt.group for row in parts[0]}
        assert 1 <= len([group for group in first if group < 8]) <= 7
        assert first.isdisjoint(row.prompt.group for row in parts[1])


def test_the_order_is_a_function_of_seed_and_version_alone():
    algorithm, rows = short(num_minibatches=4), plain_rows(BY_TASK)
    torch.manual_seed(1)
    once = seeds(minibatches(rows, algorithm, 3, 7))
    torch.manual_seed(2)
    assert seeds(minibatches(rows, algorithm, 3, 7)) == once
    others = [seeds(minibatches(rows, algorithm, seed, version)) for seed, version in ((3, 8), (4, 7), (0, 0))]
    assert len({str(one) for one in [once, *others]}) == 4
    assert sorted(seed for part in once for seed in part) == sorted(row.noise_seed for row in rows)


@pytest.mark.parametrize(
    "algorithm", [{"preset": "stabledrl"}, {"preset": "vrpo"}, {"kl": "k1_reward", "beta": 0.1}], ids=str
)
@pytest.mark.parametrize("number", [2, 3, 5, 40])
def test_groups_stay_whole_where_the_loss_compares_inside_them(algorithm, number):
    rows = plain_rows([*[0] * 5, *[1] * 2, *[2] * 7, *[3], *[4] * 4, *[5] * 3, *[6] * 2])
    parts = minibatches(rows, short(**algorithm, num_minibatches=number), 0, 0)
    assert all(parts)
    assert len(parts) <= number
    homes = [{row.prompt.group for row in part} for part in parts]
    assert sum(map(len, homes)) == len(set.union(*homes)) == 7


@pytest.mark.parametrize("number", [1, 2, 3, 24, 25, 100])
def test_elsewhere_minibatches_have_one_size_and_at_most_their_borders_cut_groups(number):
    rows = plain_rows([index // 4 for index in range(24)])
    parts = minibatches(rows, short(num_minibatches=number), 0, 5)
    assert len(parts) == min(number, 24)
    assert {len(part) for part in parts} == {-(-24 // min(number, 24))}
    order = [row.prompt.group for part in parts for row in part]
    assert sum(one != other for one, other in itertools.pairwise(order)) == 5


def test_one_minibatch_keeps_the_order_of_its_rows():
    rows = plain_rows([3, 3, 1, 1, 2, 2])
    assert seeds(minibatches(rows, short(num_minibatches=1), 0, 0)) == [[row.noise_seed for row in rows]]


def test_two_learners_of_one_run_take_the_same_steps_and_another_seed_takes_others(rows):
    rows = grouped(rows, [0, 0, 1, 1, 2, 2, 3, 3])
    ends = []
    for seed in (0, 0, 5):
        learner = make_learner({"preset": "vrbpo"})
        learner.config = learner.config.model_copy(update={"seed": seed})
        learner.update(rows)
        learner.update(rows)
        ends.append(torch.cat([value.flatten() for value in learner.model.state_dict().values()]))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


# --- preferences --------------------------------------------------------------------------------------------------

PAIRED = [0, 0, 0, 0, 1, 1, 1, 2]
WORTH = [0.5, 1.5, -2.0, 0.0, 0.3, 0.3, 0.3, 1.0]  # group 0 has one pair, group 1 none, group 2 is alone


def test_dpo_scores_its_pairs_only():
    rows = grouped([plain_row(2, 4, index) for index in range(8)], PAIRED, WORTH)
    dpo = short(**DPO)
    assert [row.noise_seed for row in learned_rows(rows, dpo)] == [1, 2]
    anchored = short(**DPO, anchor=0.1)
    assert [row.noise_seed for row in learned_rows(rows, anchored)] == [0, 1, 2, 4, 5, 6, 7]
    assert learned_rows(rows, short(**DPO, beta=0.1)) == rows  # a KL is of all rows
    assert learned_rows(rows[4:], dpo) == learned_rows([], dpo) == []


@pytest.mark.parametrize("more", [{}, {"anchor": 0.1}, {"t2t_views": "random"}, {"gamma": 0.0}], ids=str)
def test_the_gradient_of_the_pairs_is_that_of_all_rows(more, rows, monkeypatch):
    rows, found = grouped(rows, PAIRED, WORTH), []
    for score_all in (False, True):
        if score_all:
            monkeypatch.setattr(learner_module, "learned_rows", lambda some, _: list(some))
        learner = make_learner({**DPO, **more})
        with torch.no_grad():
            next(learner.model.parameters()).add_(0.1)  # away from the reference policy
        learned = learner.update(rows)["objective/learned_rows"]
        found.append((learned, flat_gradient(learner.model)))
    assert (found[0][0], found[1][0]) == (7 if "anchor" in more else 2, 8)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-12)


def test_minibatches_of_pairs_keep_both_halves(rows):
    rows = grouped(rows, [0, 0, 0, 0, 1, 1, 1, 1])
    algorithm = short(**DPO, num_minibatches=2)
    parts = minibatches(learned_rows(rows, algorithm), algorithm, 0, 0)
    assert [[row.prompt.group for row in part] for part in parts] in ([[0, 0], [1, 1]], [[1, 1], [0, 0]])
    assert make_learner({**DPO, "num_minibatches": 2}).update(rows)["objective/learned_rows"] == 4


# --- edges --------------------------------------------------------------------------------------------------------

EDGES = {
    "no rows": (slice(0, 0), [0, 0], False),
    "one row": (slice(0, 1), [0], True),
    "one group": (slice(0, 4), [0, 0, 0, 0], True),
    "groups of one": (slice(0, 3), [0, 1, 2], True),
}


@pytest.mark.parametrize("name", covering_presets())
@pytest.mark.parametrize(("some", "groups", "learns"), EDGES.values(), ids=EDGES.keys())
def test_every_preset_takes_few_rows_in_more_minibatches_than_there_are(name, some, groups, learns, rows):
    few = grouped(rows[some], groups[: len(rows[some])])
    learner = make_learner({"preset": name, "num_minibatches": 5, "num_iterations": 2})
    before = [value.clone() for value in learner.model.parameters()]
    metrics = learner.update(few)
    assert learner.policy_version == 1
    assert all(torch.isfinite(value).all() for value in learner.model.parameters())
    assert all(value == value for value in metrics.values())
    moved = any(not torch.equal(*both) for both in zip(before, learner.model.parameters(), strict=True))
    alone = len(set(groups)) == len(few)  # a completion alone in its group is in no pair
    assert moved == (learns and not (name == "vrpo" and alone))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_a_batch_without_any_advantage(name, rows):
    metrics = make_learner({"preset": name}).update(grouped(rows, PAIRED, [0.0] * 8))
    assert all(value == value for value in metrics.values())
    assert metrics["objective/learned_rows"] == (8 if short(preset=name).needs_all_rows else 0)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"preset": "ebpo", "gamma": 0.0},
        {"preset": "ebpo", "gamma": 0.0, "beta": 0.1, "kl": "k3"},
        {"preset": "stabledrl", "gamma": 0.0},
        {"preset": "bgpo", "num_mc": 2, "gamma": 0.0},
        {"preset": "vrbpo"},
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_policy_that_has_left_all_bounds_is_clipped_and_not_broken_in_fp32(algorithm, sign, rows):
    learner = make_learner({**algorithm, "num_iterations": 3}, torch.float32, learning_rate=3.0, max_grad_norm=1.0)
    with torch.no_grad():
        learner.model.head_weight.mul_(100.0)  # hundreds of nats for what it would not have written
    metrics = learner.update(grouped(rows, PAIRED, [sign] * 8))
    assert metrics["objective/log_ratio_abs"] > 100
    assert all(torch.isfinite(value).all() for value in learner.model.parameters())
    assert metrics["objective/grad_norm"] < float("inf")
