"""Memory: the design's table digit by digit, and every term by hand on a tiny shape."""

import pytest

from conftest import ROOT
from plans import FLASH, MINI, TINY, cards_of, plan_config, plan_setup
from redraft.rl.models.shape import Shape
from redraft.rl.plan.engine import cards, engine_weights
from redraft.rl.plan.machine import GIB, Machine
from redraft.rl.plan.memory import layer_bytes, learner_lines, state_bytes
from redraft.rl.plan.setup import Assumptions, settle_setup

COLUMNS = {
    "adamw": ["trainer.optimizer=adamw"],
    "8-bit": ["trainer.optimizer=adamw8bit"],
    "bf16 SR": ["trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16"],
    "LoRA r16": ["model.lora={rank: 16, targets: all}"],
}
SHAPES = {"mini": MINI, "flash": FLASH}
# GiB per GPU of the learner alone, state + the rest: 16384 tokens, imbalance 1.5, experts over min(N, 8) ranks.
TABLE = """
|   N | mini adamw | 8-bit    | bf16 SR  | LoRA r16 | flash adamw | 8-bit    | bf16 SR  | LoRA r16 |
|   1 | 242 + 17   | 151 + 17 | 121 + 17 | 37 + 11  | 1533 + 50   | 958 + 50 | 767 + 50 | 213 + 28 |
|   2 | 121 + 13   | 76 + 13  | 61 + 13  | 18 + 9   | 767 + 35    | 479 + 35 | 383 + 35 | 107 + 22 |
|   4 | 61 + 11    | 38 + 11  | 30 + 11  | 9 + 8    | 383 + 28    | 240 + 28 | 192 + 28 | 53 + 19  |
|   8 | 30 + 11    | 19 + 11  | 15 + 11  | 5 + 8    | 192 + 24    | 120 + 24 | 96 + 24  | 27 + 18  |
|  16 | 15 + 11    | 9 + 11   | 8 + 11   | 2 + 8    | 96 + 24     | 60 + 24  | 48 + 24  | 13 + 18  |
|  32 | 8 + 11     | 5 + 11   | 4 + 11   | 1 + 8    | 48 + 24     | 30 + 24  | 24 + 24  | 7 + 18   |
|  64 | 4 + 11     | 2 + 11   | 2 + 11   | 1 + 8    | 24 + 24     | 15 + 24  | 12 + 24  | 3 + 18   |
| 128 | 2 + 11     | 1 + 11   | 1 + 11   | 0 + 8    | 12 + 24     | 7 + 24   | 6 + 24   | 2 + 18   |
"""
EVERY = "trainer.parallel.gradient_sync=every"


def learner_alone(shape: Shape, gpus: int, *words: str) -> tuple[float, float]:
    """State and the rest of a learner, in GiB per GPU."""
    lines = learner_lines(plan_setup(shape, gpus, EVERY, *words))
    state = next(line.size for line in lines if line.name == "state")
    return state / GIB, sum(line.size for line in lines) / GIB - state / GIB


def printed_rows():
    for line in TABLE.strip().splitlines()[1:]:
        number, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        yield int(number), cells


@pytest.mark.parametrize(("gpus", "printed"), list(printed_rows()))
def test_the_table_of_the_design(gpus, printed):
    computed = [learner_alone(shape, gpus, *words) for shape in SHAPES.values() for words in COLUMNS.values()]
    assert [f"{state:.0f} + {rest:.0f}" for state, rest in computed] == printed


@pytest.mark.parametrize(("name", "less"), [("mini", 2.9), ("flash", 6.4)])
def test_half_the_tokens_save_what_the_page_says(name, less):
    whole = sum(learner_alone(SHAPES[name], 8))
    half = sum(learner_alone(SHAPES[name], 8, "trainer.tokens_per_microbatch=8192"))
    assert whole - half == pytest.approx(less, abs=0.05)


def test_a_card_sold_as_80_gb_has_room_for_72_and_a_half():
    assert cards_of(1).usable_bytes / GIB == pytest.approx(72.5, abs=0.05)


@pytest.mark.parametrize(("shape", "each", "spread", "token"), [(MINI, 30.3, 30.3, 40960), (FLASH, 192, 29, 65536)])
def test_the_weights_of_a_rollout_engine(shape, each, spread, token):
    setup = plan_setup(shape, 8)
    assert 2 * shape.parameters / GIB == pytest.approx(each, abs=0.5)
    assert engine_weights(setup) / GIB == pytest.approx(spread, abs=0.5)
    assert setup.rollout_bytes * shape.cached == token


# By hand: H=16 V=40 L=2 R=1 nh=2 nkv=1 hd=8 E=4 k=2 I=8, dense MLP of 32, one shared expert.
#   attention  512 q, k, v + 256 out + 16 norms of a head + 32 norms of the layer = 816 a layer
#   D = 1280 embedding and head + 16 last norm + 1632 attention + 1536 dense MLP + 68 router + 384 shared = 4916
#   X = 4 experts * 3 * 16 * 8 = 1536          P = 6452
# T = 100 tokens, N = 2 ranks, e = 2, imb = 1.5; qkv = (2 + 2) * 8 = 32, nh hd = 16.
SMALL = ["trainer.tokens_per_microbatch=100"]


def sizes(*words: str) -> dict[str, float]:
    return {line.name: line.size for line in learner_lines(plan_setup(TINY, 2, *SMALL, *words))}


def test_the_counts_of_the_tiny_shape():
    assert (TINY.parameters, TINY.expert_parameters, TINY.dense_parameters) == (6452, 1536, 4916)
    assert (TINY.qkv, TINY.heads, TINY.cached, TINY.head_parameters) == (32, 16, 32, 640)
    assert TINY.active_parameters == 4916 + 1536 * 2 / 4
    # 2 layers * 8 * (16 + 32 and 16 + 16); 4 experts * 8 * (16 + 16 and 8 + 16)
    assert TINY.adapter_parameters(8, "all") == (1280, 1792)
    assert TINY.adapter_parameters(8, "attention") == (1280, 0)


def test_every_term_of_the_learner_by_hand():
    assert sizes() == pytest.approx(
        {
            "state": 6452 * 16 / 2,
            "gathered": 10 * (1536 / 1 / 2 + (4916 - 1280) / 2) + 2 * 640,  # 27140
            "head": 8 * 640 + 3 * 100 * 16 + 3 * 2**28,
            "activations": 2 * 2 * 100 * 16 + 1.3 * 100 * 768,
        }
    )
    # attention 2 * (64 + 32 + 48) = 288, experts 2 * 1.5 * (48 + 96) = 432, shared 48
    assert layer_bytes(plan_setup(TINY, 2, *SMALL)) == 768


def test_adapters_have_no_gradients_of_whole_weights():
    found = sizes("model.lora={rank: 8, targets: all}")
    assert found["state"] == (2 * 6452 + 16 * 3072) / 2
    assert found["gathered"] == 4 * (768 + 1818) + 1280
    assert found["head"] == 2 * 640 + 3 * 100 * 16 + 3 * 2**28


def test_a_reference_policy_is_sharded_too_and_adapters_need_none():
    kl = "algorithm.regulariser.kl.beta=0.01"
    assert sizes(kl)["reference"] == 2 * 6452 / 2
    assert "reference" not in sizes(kl, "model.lora={}")


def test_unsynced_gradients_are_those_of_dense_weights():
    assert sizes("trainer.parallel.gradient_sync=last")["unsynced gradients"] == 4 * 4916
    found = sizes("trainer.parallel.gradient_sync=last", "model.lora={rank: 8, targets: all}")
    assert found["unsynced gradients"] == 4 * 1280


def test_without_checkpointing_the_insides_of_all_layers_stay():
    assert sizes("trainer.activation_checkpointing=none")["activations"] == pytest.approx(2.3 * 100 * 768)


OPTIMIZERS = {
    "adamw": (16, 0),
    "adamw8bit": (10, 0),
    "{kind: adamw_bf16_sr}": (8, 0),
    "{offload: states}": (8, 8),
    "{offload: all}": (4, 12),
    "{kind: adamw_bf16_sr, offload: all}": (4, 4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bytes_of_a_trained_parameter(optimizer):
    words = ["model.dtype=bfloat16"] if "bf16" in optimizer else []
    setup = plan_setup(TINY, 2, f"trainer.optimizer={optimizer}", EVERY, *words)
    assert state_bytes(setup) == OPTIMIZERS[optimizer]


def test_bf16_gradients_get_sums_in_fp32_unless_shards_are_reduced():
    words = ["trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16"]
    assert plan_setup(MINI, 8, *words).gradient_sync == "last"
    assert state_bytes(plan_setup(MINI, 8, *words))[0] == 12
    assert plan_setup(MINI, 16, *words).gradient_sync == "every"


# --- what fits -----------------------------------------------------------------------------------------------------


def fits(shape, gpus, *words):
    return all(card.fits for card in cards(plan_setup(shape, gpus, *words)))


LORA = ["model.lora={rank: 16, targets: all}"]
SR = ["trainer.optimizer=adamw_bf16_sr", "model.dtype=bfloat16", EVERY]
SHORT = ["trainer.tokens_per_microbatch=8192"]


@pytest.mark.parametrize(
    ("shape", "gpus", "words", "expected"),
    [
        (MINI, 1, LORA, True),  # the engine's weights leave the GPU while the learner works
        (MINI, 2, SR, False),
        (MINI, 4, SR, True),
        (MINI, 4, [], False),
        (MINI, 8, [], True),
        (FLASH, 4, LORA, False),
        (FLASH, 8, LORA, True),
        (FLASH, 32, [*SR, *SHORT], True),
        (FLASH, 16, [*SR, *SHORT], False),
        (FLASH, 64, ["trainer.optimizer=adamw8bit", *SHORT], True),
        (FLASH, 128, SHORT, True),
    ],
)
def test_the_smallest_machines_of_the_design(shape, gpus, words, expected):
    assert fits(shape, gpus, *words) is expected


def test_the_cache_takes_half_of_what_is_left():
    slots = ["rollout.slots=4096", "rollout.prompts_per_step=4096", "rollout.decode.max_completion_length=1024"]
    both = cards(plan_setup(MINI, 8, *slots))[0]
    cache = next(line for line in both.lines if line.name == "cache")
    assert cache.size / GIB == pytest.approx(5.1, abs=0.1)
    assert cache.why == "129 of 4096 completions, 1032 tokens each"
    assert both.fits
    assert next(line.size for line in cards(plan_setup(MINI, 8))[0].lines if line.name == "cache") == 32 * 16 * 40960


def test_a_cache_of_the_recipe_is_not_made_smaller():
    both = cards(plan_setup(MINI, 8, "rollout.cache_gib=20"))[0]
    assert next(line.size for line in both.lines if line.name == "cache") == 20 * GIB
    assert not both.fits
    assert both.largest.name in {"state", "weights"}


def test_phases_that_take_turns_share_their_memory():
    both = cards(plan_setup(MINI, 8))[0]
    always, learning, rolling_out = (
        sum(line.size for line in both.lines if line.phase == phase) for phase in ("always", "learning", "rolling_out")
    )
    assert both.used_bytes == always + max(learning, rolling_out)
    assert both.needed_bytes == both.used_bytes * 1.07 + 2 * GIB


def test_apart_every_role_has_cards_of_its_own():
    learner, rollout = cards(plan_setup(FLASH, 24, *SR, *SHORT, "cluster.placement=apart", "rollout.num_actors=1"))
    assert (learner.role, learner.count, rollout.role, rollout.count) == ("learner", 16, "rollout", 8)
    assert learner.fits
    assert rollout.fits
    assert {line.role for line in learner.lines} == {"learner"}


def test_without_a_gpu_all_lines_add_up_in_the_memory_of_the_host():
    config = plan_config("rollout.num_actors=3")
    setup = settle_setup(config, TINY, Machine(0, 16.0 * GIB), Assumptions(prompt_tokens=8))
    (host,) = cards(setup)
    assert host.fits
    assert host.used_bytes == sum(line.size for line in host.lines)
    assert next(line.size for line in host.lines if line.name == "weights") == 3 * 4 * 6452  # float32 as the learner
    assert next(line.size for line in host.lines if line.name == "gathered") == 0  # one process, nothing is cast


def test_the_page_shows_rows_of_this_table():
    def cells(line: str) -> list[str]:
        return [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]

    page = (ROOT / "docs" / "scale.md").read_text().split("| N | mini adamw")[1].split("\n\n")[0]
    shown = [cells(line) for line in page.splitlines()[2:]]
    assert shown
    assert all(row in [cells(line) for line in TABLE.strip().splitlines()] for row in shown)
