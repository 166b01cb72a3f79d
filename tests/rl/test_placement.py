"""Where the parts of a run lie: derived from the machine, asked for by the recipe, or refused with the numbers."""

import pytest

from plans import plan_config
from redraft.rl.cluster.placement import Machines, count_machines, place_parts

EXPERTS = 256


def placed(gpus, node, *words):
    return place_parts(plan_config(*words), EXPERTS, Machines(gpus, node))


def test_a_recipe_that_asks_for_nothing_gets_every_gpu_twice():
    config, here = plan_config(), Machines(16, 8)
    placement = place_parts(config, EXPERTS, here)
    assert (placement.layout.world, placement.layout.ep, placement.engines) == (16, 8, 16)
    assert (placement.rank_gpus, placement.engine_gpus, placement.idle) == (0.5, 0.5, 0)
    assert placement.bundles(config) == [{"CPU": 2.0, "GPU": 1.0}] * 16  # a CPU for the rank, one for its engine
    assert placement.describe() == "16 learner ranks (experts over 8) and 16 rollout engines share 16 of 16 GPUs"


def test_parts_that_lie_apart_have_gpus_of_their_own():
    words = ("cluster.placement=apart", "rollout.num_actors=4", "cluster.learner_cpus=3")
    placement = placed(8, 8, *words)
    assert (placement.layout.world, placement.engines, placement.idle) == (4, 4, 0)
    assert (placement.rank_gpus, placement.engine_gpus) == (1.0, 1.0)
    assert placement.bundles(plan_config(*words)) == [{"CPU": 3.0, "GPU": 1.0}] * 4
    assert placement.asked(plan_config(*words)) == (4 * 3 + 4 + 1, 8.0)


def test_gpus_that_are_left_over_are_counted_with_the_reason():
    placement = placed(8, 8, "cluster.placement=apart", "rollout.num_actors=1")
    assert (placement.layout.world, placement.idle) == (4, 3)
    assert placement.idle_text(EXPERTS) == (
        "3 of 8 GPUs have no work: 256 experts are shared equally by 4 ranks, or the recipe asks for no more"
    )
    assert placed(8, 8).idle_text(EXPERTS) == ""


def test_without_gpus_the_recipe_says_how_many_ranks_there_are():
    config = plan_config("trainer.parallel.ranks=2", "cluster.learner_cpus=2", "rollout.num_actors=3")
    placement = place_parts(config, 8, Machines(0, 2))
    assert (placement.layout.world, placement.layout.ep, placement.engines, placement.colocated) == (2, 2, 3, False)
    assert placement.bundles(config) == [{"CPU": 2.0}] * 2
    assert (placement.rank_gpus, placement.engine_gpus, placement.idle_text(8)) == (0.0, 0.0, "")
    assert placed(0, 1).layout.world == 1


@pytest.mark.parametrize(
    ("gpus", "node", "words", "message"),
    [
        (8, 8, ["trainer.parallel.ranks=16"], "the learner asks for 16 GPUs and 8 are left for it"),
        (2, 2, ["cluster.placement=apart", "rollout.num_actors=2"], "leaves no GPU of 2 for the learner; lower it"),
        (0, 1, ["cluster.learner_gpus=64"], "ask for 64 GPUs, but there are 0"),
        (0, 1, ["trainer.parallel.ranks=2", "trainer.parallel.expert_parallel=2"], "does not fit into nodes of 1"),
        (0, 4, ["trainer.parallel.ranks=3"], "256 experts per layer cannot be shared equally by 3 ranks"),
    ],
)
def test_what_the_machine_cannot_hold_is_refused(gpus, node, words, message):
    with pytest.raises(ValueError, match=message):
        placed(gpus, node, *words)


def test_nodes_are_counted_by_gpus_and_without_them_by_the_ranks_that_their_cpus_take():
    nodes = [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 16.0}, {"CPU": 64.0, "GPU": 4.0}]
    assert count_machines(nodes, plan_config()) == Machines(12, 4)
    assert count_machines(nodes, plan_config("model.device=cpu", "cluster.learner_cpus=4")) == Machines(0, 4)
    assert count_machines([{"CPU": 1.0}], plan_config("cluster.learner_cpus=2")) == Machines(0, 1)
