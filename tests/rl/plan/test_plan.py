"""A whole plan: what is decided, refused, warned about and offered, and its JSON."""

import itertools
import json

import pytest

from plans import FLASH, MINI, TINY, cards_of, plan_config
from redraft.rl.config.parallel import LoRAConfig
from redraft.rl.config.places import built_in
from redraft.rl.config.presets import PRESETS
from redraft.rl.config.recipe import load_recipe
from redraft.rl.models.shape import find_shape
from redraft.rl.plan.changes import cheapest_changes
from redraft.rl.plan.machine import CARD_GIB, GIB, Machine, choose_machine
from redraft.rl.plan.plan import Plan, make_plan
from redraft.rl.plan.report import as_json, closing, heading, tables
from redraft.rl.plan.setup import Assumptions, settle_setup

ASSUMED = Assumptions(prompt_tokens=8)


def planned(shape, gpus, *words) -> Plan:
    return make_plan(plan_config(*words), shape, cards_of(gpus), ASSUMED)


def test_what_a_recipe_leaves_open_is_settled():
    setup = planned(MINI, 16).setup
    assert (setup.layout.world, setup.layout.ep, setup.layout.efsdp) == (16, 8, 2)
    assert (setup.colocated, setup.engines, setup.compute, setup.gradient_sync) == (True, 16, "bfloat16", "every")
    apart = planned(MINI, 16, "cluster.learner_gpus=8", "cluster.rollout_gpus=1", "rollout.num_actors=8").setup
    assert (apart.colocated, apart.layout.world, apart.engines) == (False, 8, 8)


@pytest.mark.parametrize(
    ("gpus", "words", "message"),
    [
        (0, ["cluster.learner_gpus=2"], "ask for 2 GPUs, but there are 0"),
        (8, ["trainer.parallel.ranks=16"], "the learner asks for 16 GPUs and 8 are left for it"),
        (8, ["trainer.parallel.ranks=6"], "256 experts per layer cannot be shared equally by 6 ranks"),
        (16, ["trainer.parallel.expert_parallel=16"], "expert_parallel=16 does not fit into nodes of 8 GPUs"),
        (8, ["trainer.parallel.expert_parallel=3"], "expert_parallel=3 must divide the 8 ranks"),
        (2, ["cluster.placement=apart", "rollout.num_actors=2"], "leaves no GPU of 2 for the learner; lower it"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(gpus, words, message):
    with pytest.raises(ValueError, match=message):
        settle_setup(plan_config(*words), MINI, cards_of(gpus), ASSUMED)


def test_ranks_on_a_host_without_gpus_share_its_memory():
    one, two = (planned(TINY, 0, f"trainer.parallel.ranks={ranks}") for ranks in (1, 2))
    assert (two.setup.layout.world, two.setup.layout.ep, two.setup.colocated) == (2, 2, False)
    state = [next(line.size for line in plan.cards[0].lines if line.name == "state") for plan in (one, two)]
    assert state[0] == state[1]


def test_a_recipe_that_fits_is_offered_nothing():
    plan = planned(MINI, 8)
    assert (plan.fits, plan.refused, plan.changes) == (True, (), ())
    assert "fits" in heading(plan, "mini").splitlines()[0]


def test_what_does_not_fit_is_named_with_its_largest_line():
    plan = planned(MINI, 1)
    assert not plan.fits
    (reason,) = plan.refused
    assert reason.startswith("learner and rollout: needs ")
    assert reason.endswith("the largest line is state of the learner, 242.2 GiB: weights, gradients, moments (adamw)")


CASES = [(MINI, 1, ()), (MINI, 4, ("trainer.activation_checkpointing=none",)), (MINI, 0, ()), (FLASH, 16, ())]


@pytest.mark.parametrize(("shape", "gpus", "words"), CASES)
def test_every_change_that_is_offered_fits_and_needs_all_of_its_parts(shape, gpus, words):
    config = plan_config(*words)
    machine = cards_of(gpus) if gpus else Machine(0, 16.0 * GIB)
    plan = make_plan(config, shape, machine, ASSUMED)
    assert 1 <= len(plan.changes) <= 3
    for change in plan.changes:
        for parts in itertools.product([False, True], repeat=len(change.settings)):
            taken = [word for word, is_taken in zip(change.settings, parts, strict=True) if is_taken]
            again = with_words(taken, [*words], shape, gpus)
            assert again == all(parts), f"{taken} of {change.settings}"


def with_words(taken, words, shape, gpus) -> bool:
    """Whether all GPUs have room with some words of a change, read as a user would write them."""
    count = next((int(word.split()[1]) for word in taken if word.startswith("--gpus")), gpus)
    settings = [word for word in taken if not word.startswith("--gpus")]
    machine = Machine(count, CARD_GIB * GIB) if count else Machine(0, 16.0 * GIB)
    plan = make_plan(plan_config(*words, *settings), shape, machine, ASSUMED)
    return all(card.fits for card in plan.cards)


def test_changes_are_sorted_by_what_they_do_to_the_result_and_then_by_cost():
    changes = planned(MINI, 4, "trainer.activation_checkpointing=none").changes
    order = ["the same arithmetic", "other arithmetic in the optimizer", "adapters are trained in place of the weights"]
    keys = [(order.index(change.effect), change.gpu_seconds) for change in changes]
    assert keys == sorted(keys)
    assert len({tuple(word.split("=")[0].split()[0] for word in change.settings) for change in changes}) == len(changes)


def test_nothing_is_offered_where_nothing_helps():
    def never(config, machine):
        raise ValueError("does not fit")

    assert cheapest_changes(plan_config("model.lora={}"), cards_of(1), never) == []
    plan = make_plan(plan_config(), MINI, Machine(1, 3.0 * GIB), ASSUMED)
    assert plan.changes == ()
    assert closing(plan)[-1] == "no change of up to three keys makes it fit on up to 128 such GPUs"


def test_engines_over_several_gpus_are_computed_and_refused():
    plan = planned(FLASH, 64, "trainer.optimizer=adamw8bit", "trainer.tokens_per_microbatch=8192")
    assert all(card.fits for card in plan.cards)
    assert plan.setup.gpus_per_engine == 8
    assert not plan.fits
    assert plan.refused == (
        "rollout: the policy takes 192 GiB and fits on no GPU; with its experts over 8 GPUs it takes 29 GiB on each,"
        " but rollout engines over several GPUs are not built yet; use a smaller model",
    )


def test_gpus_without_work_are_named():
    assert any(text.startswith("4 of 12 GPUs have no work") for text in planned(MINI, 12).warnings)
    assert any(
        text.startswith("7 of 8 GPUs have no work") for text in planned(MINI, 8, "cluster.learner_gpus=1").warnings
    )


def test_lengths_that_the_policy_cannot_address_are_named():
    long = planned(MINI, 8, "rollout.decode.max_completion_length=32768").warnings
    assert any(
        text.startswith("prompt and completion have 32776 tokens, and the policy addresses 32768") for text in long
    )
    assert not any("addresses" in text for text in planned(MINI, 8).warnings)


def test_a_step_with_fewer_completions_than_ranks_is_named():
    words = ["rollout.prompts_per_step=1", "rollout.num_generations=4"]
    assert any("fewer than the 8 ranks" in text for text in planned(MINI, 8, *words).warnings)


def test_traffic_that_takes_most_of_the_time_is_named_with_its_cure():
    short, long = planned(MINI, 16, "trainer.tokens_per_microbatch=1024"), planned(MINI, 8)
    assert any(text.endswith("raise trainer.tokens_per_microbatch") for text in short.warnings)
    assert any("rows for the experts of other ranks" in text for text in long.warnings)


KEYS = {
    *("schema", "recipe", "fits", "network", "machine", "assumptions", "placement", "memory", "batch", "traffic"),
    *("seconds", "sync_bytes", "checkpoint", "host_bytes", "refused", "changes", "warnings"),
}


@pytest.mark.parametrize(("shape", "gpus"), [(MINI, 8), (MINI, 1), (TINY, 1)])
def test_the_json_has_the_same_keys_always(shape, gpus):
    plan = planned(shape, gpus)
    made = json.loads(json.dumps(as_json(plan, ["recipe", "a=b"])))
    assert made.keys() == KEYS
    assert (made["schema"], made["recipe"], made["fits"]) == (1, ["recipe", "a=b"], plan.fits)
    for card in made["memory"]:
        assert card.keys() == {"role", "gpus", "card_bytes", "used_bytes", "needed_bytes", "fits", "lines"}
        assert sum(line["largest"] for line in card["lines"]) == 1
    assert all(change.keys() == {"settings", "effect", "needed_bytes", "gpu_seconds"} for change in made["changes"])


def test_a_host_without_gpus_has_no_traffic_and_no_seconds():
    plan = make_plan(plan_config(), TINY, Machine(0, 16.0 * GIB), ASSUMED)
    made = as_json(plan, [])
    assert (made["traffic"], made["seconds"]) == (None, None)
    assert "no GPU" in heading(plan, "tiny")


def test_the_tables_show_every_line():
    plan = planned(MINI, 4, "trainer.optimizer.offload=all")
    text = "\n".join(" ".join(row) for table in tables(plan) for row in table.rows)
    for name in ("state", "gathered", "head", "activations", "cache", "views of a completion", "checkpoint: state/"):
        assert name in text
    assert "optimizer in the memory of a host" in text
    assert f"{12 * MINI.parameters / GIB:.2f} GiB" in text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((8, None, None), (8, CARD_GIB, 8)),
        ((16, 141.0, 4), (16, 141.0, 4)),
        ((0, 32.0, None), (0, 32.0, 8)),
    ],
)
def test_a_machine_from_options(options, expected, monkeypatch):
    monkeypatch.setattr("redraft.rl.plan.machine.gpus_here", lambda: (0, 0.0))
    machine = choose_machine(*options)
    assert (machine.gpus, machine.card_bytes / GIB, machine.gpus_per_node) == pytest.approx(expected)


def test_the_machine_that_is_here(monkeypatch):
    monkeypatch.setattr("redraft.rl.plan.machine.gpus_here", lambda: (2, 40.0 * GIB))
    here = choose_machine(None, None, None)
    assert (here.gpus, here.card_bytes, here.gpus_per_node) == (2, 40.0 * GIB, 2)
    monkeypatch.setattr("redraft.rl.plan.machine.gpus_here", lambda: (0, 0.0))
    host = choose_machine(None, None, None)
    assert host.gpus == 0
    assert host.card_bytes > GIB


def test_a_driver_that_does_not_answer_counts_as_no_gpu(monkeypatch, tmp_path):
    from redraft.rl.plan.machine import gpus_here

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus_here() == (0, 0.0)
    program.write_text("#!/bin/sh\nprintf '81559, NVIDIA H100\\n40960, NVIDIA A100\\n'\n")
    assert gpus_here() == (2, 40960 * 2.0**20)


def test_lora_words_are_read_back():
    assert plan_config("model.lora={rank: 16, targets: all}").model.lora == LoRAConfig(rank=16, targets="all")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_planned(preset):
    batch = planned(MINI, 8, f"algorithm={preset}").batch
    assert batch.views > 0
    assert batch.learner_backwards > 0
    assert batch.learner_forwards >= 0


@pytest.mark.parametrize("recipe", built_in("recipes"))
def test_every_built_in_recipe_can_be_planned(recipe):
    config = load_recipe([recipe])
    # A laptop runs what makes its own policy; recipes of published models say in their cards what they need.
    machine = cards_of(8) if config.model.path else Machine(0, 16.0 * GIB)
    plan = make_plan(config, find_shape(config.model.path, config.model.init), machine, ASSUMED)
    assert plan.fits, plan.refused
