"""Every expert has one owner, every rank as many experts, and sizes that do not fit are refused by name."""

import subprocess
import sys

import pytest

from redraft.rl.parallel.layout import RankLayout, widest_ep

SIZES = [(1, 1, 1), (2, 2, 1), (4, 2, 1), (8, 8, 1), (16, 8, 1), (16, 4, 2), (12, 3, 2), (128, 8, 1)]


def test_the_sizes_of_two_nodes():
    layout = RankLayout(16, 8)
    assert (layout.dp, layout.ep, layout.efsdp) == (16, 8, 2)
    assert layout.coordinates(9) == (0, 1, 1)
    assert layout.experts_of(9, 256) == range(48, 64)
    assert [layout.owner(place, 256) for place in (0, 31, 32, 47, 48, 255)] == [0, 8, 1, 1, 9, 15]


@pytest.mark.parametrize("sizes", SIZES)
def test_every_expert_has_one_owner_and_every_rank_equally_many(sizes):
    layout = RankLayout(*sizes)
    experts = 3 * layout.dp
    owned = [layout.experts_of(rank, experts) for rank in range(layout.dp)]
    assert sorted(place for one in owned for place in one) == list(range(experts))
    assert {len(one) for one in owned} == {3}
    assert all(layout.owner(place, experts) == rank for rank, one in enumerate(owned) for place in one)


@pytest.mark.parametrize("sizes", SIZES)
def test_ranks_of_a_replica_own_what_those_of_the_first_own(sizes):
    layout = RankLayout(*sizes)
    for rank in range(layout.world):
        assert layout.experts_of(rank, 2 * layout.dp) == layout.experts_of(rank % layout.dp, 2 * layout.dp)


@pytest.mark.parametrize("sizes", SIZES)
def test_an_expert_parallel_group_is_a_run_of_ranks(sizes):
    layout = RankLayout(*sizes)
    for rank in range(0, layout.world, layout.ep):
        group = [layout.coordinates(one) for one in range(rank, rank + layout.ep)]
        assert len({(replica, piece) for replica, piece, _ in group}) == 1
        assert [place for *_, place in group] == list(range(layout.ep))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0,), "world must be at least 1, got 0"),
        ((8, -1), "ep must be at least 1, got -1"),
        ((8, 1, 3), "replicate=3 must divide the 8 ranks"),
        ((8, 3), r"expert_parallel=3 must divide the 8 ranks .*; use 1, 2, 4 or 8"),
        ((8, 8, 2), r"expert_parallel=8 must divide the 4 ranks .*; use 1, 2 or 4"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        RankLayout(*sizes)


def test_experts_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match=r"6 experts per layer cannot be shared equally by 4 ranks .*use 1, 2, 3 or 6"):
        RankLayout(4, 2).check_experts(6)
    with pytest.raises(ValueError, match="expert_parallel=2: the network has no experts; use 1"):
        RankLayout(2, 2).check_experts(0)
    RankLayout(2, 1).check_experts(0)


def test_a_group_that_spans_nodes_is_refused():
    RankLayout(16, 8).check_node(8)
    RankLayout(6, 6).check_node(8)
    for layout, per_node in ((RankLayout(16, 16), 8), (RankLayout(12, 3), 8), (RankLayout(4, 4), 2)):
        with pytest.raises(
            ValueError, match=rf"expert_parallel={layout.ep} does not fit into nodes of {per_node} GPUs"
        ):
            layout.check_node(per_node)


def test_ranks_and_places_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="rank 4: the learner has ranks 0 to 3"):
        RankLayout(4).coordinates(4)
    with pytest.raises(ValueError, match="place 8: the layer has experts 0 to 7"):
        RankLayout(4).owner(8, 8)


@pytest.mark.parametrize(
    ("world", "experts", "expected"), [(1, 256, 1), (4, 256, 4), (6, 12, 6), (16, 256, 8), (12, 12, 4), (16, 0, 1)]
)
def test_the_widest_group_lies_inside_a_node(world, experts, expected):
    assert widest_ep(world, experts, gpus_per_node=8) == expected
    RankLayout(world, expected).check_node(8)


def test_it_loads_no_torch():
    code = "import sys, redraft.rl.parallel.layout; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
