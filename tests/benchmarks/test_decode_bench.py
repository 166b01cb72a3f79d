"""`python -m benchmarks decode`: the baseline without a cache, what is counted, forced decodes and their floor."""

import json
import math
import sys

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.common.policies import build_bare_policy, decode
from benchmarks.decode import workload as decode_workload
from benchmarks.decode.bytes import total_bytes
from benchmarks.decode.floor import TINY_MINI, FloorPlan, build_random, measure_floor
from benchmarks.decode.forced import ForcedSession, Traffic, TrafficSession, forced_slots
from benchmarks.decode.measure import CACHED, NAIVE, Plan, golden_forwards, measure
from benchmarks.decode.meter import Meter, WrappedEngine, metered
from benchmarks.decode.naive import Row, active_head, decode_naive, whole_head
from benchmarks.decode.packing import packing
from benchmarks.decode.rates import ForcedBench
from benchmarks.decode.workload import DECODE, SHAPES, Workload, build_workload, random_prompts
from redraft.rollout.config import DecodeConfig
from redraft.rollout.decoding.decoder import Decoder
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import SpecialTokens

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def workload() -> Workload:
    return build_workload("tiny", "float64", "cpu", num_prompts=4, new_tokens=40)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Few forwards per block; no golden data, so random weights and no golden cases; and no vLLM."""
    monkeypatch.setenv("REDRAFT_GOLDEN", str(tmp_path))
    rules = {"threshold": 0.02, "editing_threshold": 0.3, "max_post_steps": 1}
    monkeypatch.setattr(decode_workload, "DECODE", DECODE.model_copy(update=rules))
    monkeypatch.setattr("benchmarks.decode.vllm.find_spec", lambda name: None)


def naive_rows(workload: Workload, config: DecodeConfig, tokens: SpecialTokens) -> list[Row]:
    logits = whole_head(workload.model, config.block_length)
    return [decode_naive(logits, prompt, config, tokens, CPU) for prompt in workload.prompts]


# --- the ways -----------------------------------------------------------------------------------------------------


def test_the_baseline_without_a_cache_writes_what_the_engine_writes(workload):
    completions = decode(TorchEngine(workload.model), workload.prompts, workload.config, workload.tokens, 2)
    rows = list(map(Row.of, completions))
    assert naive_rows(workload, workload.config, workload.tokens) == rows
    assert sum(row.num_edits for row in rows) > 20
    logits = active_head(workload.model, workload.config.block_length)
    assert decode_naive(logits, workload.prompts[0], workload.config, workload.tokens, CPU) == rows[0]


def test_the_baseline_draws_and_stops_as_the_engine_does(workload):
    """Drawn tokens and redrawn edits, budgets that end blocks, stop tokens and a limit inside a block."""
    config = DecodeConfig(
        threshold=0.1,
        editing_threshold=0.2,
        max_post_steps=2,
        max_completion_length=75,
        temperature=1.0,
        edit_sampling="sample",
    )
    tokens = SpecialTokens(mask=511, pad=0, stops=tuple(range(100, 106)))
    completions = decode(TorchEngine(workload.model), workload.prompts, config, tokens, 3)
    assert naive_rows(workload, config, tokens) == list(map(Row.of, completions))
    assert {one.finish_reason for one in completions} == {"stop", "length"}


def test_golden_cases_take_the_golden_number_of_forwards(golden):
    cases = golden_forwards()  # of the data that the fixture makes sure of
    assert cases is not None
    assert len(cases) == 6
    assert all(case["forwards"] <= case["golden"] and case["same_tokens"] for case in cases)


def test_the_mid_size_has_about_twelve_million_weights():
    # Embedding and head 2 V H; per layer attention H (4 + 2 * 2) D + 4 D H, norms 2 H + 2 D; dense 3 H I in the first
    # layer, in the others 17 experts of 3 H 96 and a router of 16 H; the last norm.
    v, h, d = 8192, 256, 64
    attention = h * (4 + 2 * 2) * d + 4 * d * h + 2 * h + 2 * d
    expected = 2 * v * h + 6 * attention + 3 * h * 512 + 5 * (17 * 3 * h * 96 + 16 * h) + h
    model = build_bare_policy(SHAPES["mid"], "float32", "cpu", 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert 11.5e6 < expected < 12.5e6


def test_prompts_follow_the_seed_and_stay_in_their_bounds():
    prompts = random_prompts(40, mask=9, seed=3, lengths=(2, 5))
    assert prompts == random_prompts(40, mask=9, seed=3, lengths=(2, 5))
    assert prompts != random_prompts(40, mask=9, seed=4, lengths=(2, 5))
    assert {len(prompt.token_ids) for prompt in prompts} == {2, 3, 4, 5}
    assert {token for prompt in prompts for token in prompt.token_ids} == set(range(1, 9))


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="unknown size 'big'; valid: tiny, mid"):
        build_workload("big", "float32", "cpu", 1, 32)


# --- what is counted ----------------------------------------------------------------------------------------------


def test_a_meter_counts_what_the_decoder_counts_and_changes_nothing(workload):
    ticks = iter(range(1_000_000))
    meter = Meter()
    engine = TorchEngine(workload.model)
    decoder = Decoder(metered(engine, meter, lambda: next(ticks)), workload.tokens, 2)
    config = workload.config.model_copy(update={"temperature": 1.0, "max_completion_length": 32})
    found = [completion for _, completion in sorted(decoder.stream(workload.prompts, config), key=lambda pair: pair[0])]
    assert found == decode(engine, workload.prompts, config, workload.tokens, 2)
    assert (meter.passes, meter.prefills) == (decoder.work.passes, decoder.work.prefills)
    assert meter.active == decoder.work.sequence_steps == sum(one.num_forwards for one in found)
    # A clock of ticks: every forward and prefill takes one, every step reads once; pieces are drawn besides.
    assert (meter.body_s, meter.prefill_s) == (meter.passes, meter.prefills)
    assert meter.head_s > meter.passes
    assert meter.entries > meter.active


@pytest.mark.parametrize(
    ("steps", "slots", "passes", "expected"),
    [
        # 12 steps in 3 slots: 4 passes, but a row of 6 has a tail of 2; it comes last, when 2 passes are over.
        ([2, 2, 2, 6], 3, 9, (12, 6, 2, 6, 8, 9, 1.5)),
        # 13 steps in 2 slots, rounded up to 7; the first slot takes 4 + 2, the other 3 + 4.
        ([4, 3, 4, 2], 2, 7, (13, 4, 0, 7, 7, 7, 1.0)),
        ([5], 8, 5, (5, 5, 4, 5, 5, 5, 1.0)),
    ],
)
def test_packings_agree_with_hand_counts(steps, slots, passes, expected):
    assert packing(steps, slots, passes) == expected


# --- forced decodes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "forwards"), [(1.0, [32, 32, 32]), (3.0, [10, 11, 11]), (5.0, [6, 6, 7])])
def test_forced_blocks_take_their_forwards_and_fill_evenly(rate, forwards):
    for block, expected in enumerate(forwards):
        positions = block * 32 + torch.arange(32)[None]
        tokens, counts = torch.full((1, 32), 9), []
        while (passing := forced_slots(tokens, positions, 9, rate)).any():
            counts.append(int(passing.sum()))
            assert passing.nonzero()[:, 1].tolist() == list(range(sum(counts[:-1]), sum(counts)))
            tokens[passing] = 1
        assert len(counts) + 1 == expected
        assert sum(counts) == 32
        assert max(counts) - min(counts) <= 1


def test_a_prompt_in_the_first_block_counts_as_filled():
    tokens = torch.tensor([[1] * 20 + [9] * 12])
    # Rate 5 gives the first block 6 forwards, 5 that fill: 20 filled is past the third level (20 >= 32 * 3 / 5), the
    # fourth is 26.
    assert forced_slots(tokens, torch.arange(32)[None], 9, 5.0).nonzero()[:, 1].tolist() == list(range(20, 26))


def test_a_forced_decode_has_its_tokens_per_forward_and_its_traffic():
    model, tokens = build_random("tiny-mini", seed=0)
    prompts = random_prompts(3, tokens.mask, 0, (32, 32))
    traffic = Traffic()
    engine = WrappedEngine(
        TorchEngine(model),
        lambda session: ForcedSession(TrafficSession(session, traffic, 32), tokens.mask, 5.0),
    )
    config = DecodeConfig(threshold=0.5, editing_threshold=0.5, max_completion_length=160)
    completions = decode(engine, prompts, config, tokens, 3)
    # Blocks 1 to 5 of rate 5 end at forwards floor(32 * 6 / 5) = 38 minus the 6 of block 0, which is the prompt.
    assert [one.num_forwards for one in completions] == [32] * 3
    assert all(one.trace.num_edits == 0 for one in completions)
    assert len(traffic.tokens) == 32
    # Three active blocks per pass, and in the first one also the three prompt blocks.
    assert traffic.tokens == [6 * 32] + [3 * 32] * 31
    # Each of the six reads as far as it reaches (prompts 32, active blocks 64), and writes itself.
    assert traffic.kv_tokens[:2] == [3 * 32 + 3 * 64 + 6 * 32, 3 * 64 + 3 * 32]
    assert all(1 <= int(count) <= 3 * 32 for count in traffic.experts)
    assert max(map(int, traffic.experts)) > 3 * 4
    # From the shape: every pass reads body, head and its experts, its rows of the embedding, its keys and values.
    h, d, v = TINY_MINI["hidden_size"], TINY_MINI["head_dim"], TINY_MINI["vocab_size"]
    attention = h * (4 + 2) * d + 4 * d * h + 2 * h + 2 * d
    body = 4 * attention + 3 * h * 160 + 3 * (32 * h + 32 + 3 * h * 16) + h
    words = 32 * (body + v * h) + sum(map(int, traffic.experts)) * 3 * h * 16
    words += sum(traffic.tokens) * h + sum(traffic.kv_tokens) * 2 * 4 * 1 * d
    assert total_bytes(model, traffic, traffic.visits) == pytest.approx(4 * words, rel=1e-12)


def test_experts_are_counted_in_one_block_and_stand_for_the_whole_decode():
    model, tokens = build_random("tiny-mini", seed=0)
    bench = ForcedBench(model, tokens, random_prompts(3, tokens.mask, 0, (32, 32)), new_tokens=96)
    whole = Traffic()
    bench._decode(bench._forced(5.0, lambda session: TrafficSession(session, whole, 32)))
    assert bench.visits(5.0) == pytest.approx(whole.visits, rel=0.1)
    assert bench.measure(5.0, whole.visits, 1)["bytes"] == pytest.approx(total_bytes(model, whole, whole.visits))


class OnFixedMemory(TorchEngine):
    """Passes padded to the sizes of graphs and run on fixed memory: all of a graph but the capture."""

    def open(self, num_pages, block_length, mask):
        session = super().open(num_pages, block_length, mask)
        session.use_graphs(lambda function: function)
        return session


def test_one_session_serves_all_rates_and_captures_nothing_once_it_is_warm(monkeypatch):
    monkeypatch.setattr("benchmarks.decode.rates.TorchEngine", lambda model, cuda_graphs=True: (
        OnFixedMemory(model) if cuda_graphs else TorchEngine(model)
    ))  # fmt: skip
    plan = FloorPlan("tiny-mini", slots=(2,), rates=(3.0, 5.0), new_tokens=64, repeats=2)
    captured, found = [], {}
    for found in measure_floor(plan):
        captured.append(found["sessions"][-1]["graphs"]["captured"])
    assert captured[0] > 1
    assert set(captured) == {captured[0]}
    (session,) = found["sessions"]
    assert session["graphs"]["broken"] is None
    assert all(case["passes_from_graphs"] == 1.0 for case in found["cases"])
    assert session["plain"]["same_rows"] == 2
    assert session["plain"]["same_tokens"] == 1.0


def test_a_record_grows_case_by_case():
    plan = FloorPlan("tiny-mini", slots=(1, 2), rates=(5.0,), new_tokens=32, repeats=1)
    assert [(len(one["cases"]), len(one["sessions"])) for one in measure_floor(plan)] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]


@pytest.mark.parametrize("rate", [0.0, -1.0, 11.0])
def test_a_rate_that_no_block_can_have_is_refused(rate):
    with pytest.raises(ValueError, match=r"tokens per forward must be above 0 and at most 10\.7"):
        FloorPlan("tiny-mini", rates=(3.0, rate))


def test_random_weights_say_what_is_wrong():
    with pytest.raises(ValueError, match="unknown random weights 'maxi'; valid: mini, tiny-mini"):
        build_random("maxi", 0)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"needs a GPU.*32\.5 GB.*tiny-mini runs the same measurement on a CPU"):
            build_random("mini", 0)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_and_prints_what_it_measured(tmp_path, quick):
    words = "--size tiny --tokens 40 --prompts 4 --naive-prompts 1 --slots 1 --slots 3 --dtype float64"
    result = CliRunner().invoke(app, ["decode", *words.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "decode.json").read_text())
    assert {"command", "commit", "device", "versions"} <= record.keys()
    assert record["golden"] is None
    ways = record["sizes"]["tiny"]["ways"]
    assert [(way["name"], way["prompts"]) for way in ways] == [
        (NAIVE, 1),
        ("(a) the same, head on the active block only", 1),
        (CACHED, 1),
        (CACHED, 4),
        ("(c) slots, S = 1", 4),
        ("(c) slots, S = 3", 4),
        ("(d) vLLM engine", 4),
    ]
    assert ways[-1]["missing"] == "vllm not installed"
    assert "(d) vLLM engine: vllm not installed" in result.output
    measured = ways[:-1]
    assert all(way["same_rows"] == way["prompts"] for way in measured)
    assert all(math.isclose(way["tokens_per_s"] * way["seconds"], 40 * way["prompts"]) for way in measured)
    for way in measured[2:]:
        assert way["packing"]["passes"] >= way["packing"]["perfect"]
        assert math.isclose(sum(way["shares"].values()), 1.0, abs_tol=0.02)  # medians of parts
    report = (tmp_path / "decode.md").read_text()
    assert "## Speed: tiny" in report
    assert "![tokens per second](decode.png)" in report
    assert (tmp_path / "decode.png").stat().st_size > 5000
    assert "Step time and packing: tiny" in result.output


def test_the_same_command_measures_random_weights_against_memory(tmp_path):
    words = "--random-weights tiny-mini --slots 2 --tokens 32 --repeats 1"
    result = CliRunner().invoke(app, ["decode", *words.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "decode_tiny-mini.json").read_text())
    assert [(one["slots"], one["rate"]) for one in record["cases"]] == [(s, r) for s in (2,) for r in (1, 3, 5)]
    for one in record["cases"]:
        # Block 1 alone, after a prompt of one block: floor(64 / rate) - floor(32 / rate) forwards.
        assert one["passes"] == 64 // one["rate"] - 32 // one["rate"]
        assert math.isclose(one["share"], one["bytes"] / record["bandwidth_gb_per_s"] / 1e9 / one["seconds"])
    assert record["complete"] is True
    (session,) = record["sessions"]
    assert session["graphs"] is session["plain"] is None  # on a CPU in float32
    assert "Memory bandwidth" in result.output


def test_what_was_measured_is_kept_when_a_later_case_fails(tmp_path, monkeypatch):
    measure_case = ForcedBench.measure

    def fail(self, rate, visits, repeats):
        if rate == 3.0:
            raise torch.OutOfMemoryError("no memory")
        return measure_case(self, rate, visits, repeats)

    monkeypatch.setattr(ForcedBench, "measure", fail)
    words = "--random-weights tiny-mini --slots 2 --tokens 32 --repeats 1 --rates 5 --rates 3 --rates 1"
    result = CliRunner().invoke(app, ["decode", *words.split(), "--out", str(tmp_path)])
    assert isinstance(result.exception, torch.OutOfMemoryError)
    record = json.loads((tmp_path / "decode_tiny-mini.json").read_text())
    assert [one["rate"] for one in record["cases"]] == [5.0]
    assert record["complete"] is False
    assert "1 of 3 cases" in (tmp_path / "decode_tiny-mini.md").read_text()


def test_without_matplotlib_all_numbers_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = "--random-weights tiny-mini --slots 1 --tokens 32 --repeats 1 --rates 5 --profile"
    result = CliRunner().invoke(app, ["decode", *words.split(), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "no figure: figures need matplotlib" in result.output
    assert {path.name for path in tmp_path.iterdir()} == {"decode_tiny-mini.json", "decode_tiny-mini.md"}
    profile = json.loads((tmp_path / "decode_tiny-mini.json").read_text())["sessions"][0]["profile"]
    assert "aten::mm" in {cost["name"] for cost in profile["costs"]}
    assert "A pass by kernel, S = 1" in (tmp_path / "decode_tiny-mini.md").read_text()


def test_ways_that_were_run_are_kept_when_a_later_one_fails(tmp_path, quick, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("benchmarks.decode.measure._one_by_one", fail)
    words = "--size tiny --tokens 32 --prompts 1 --naive-prompts 1 --slots 1"
    result = CliRunner().invoke(app, ["decode", *words.split(), "--out", str(tmp_path)])
    assert isinstance(result.exception, torch.OutOfMemoryError)
    record = json.loads((tmp_path / "decode.json").read_text())
    states = ["seconds" in way for way in record["sizes"]["tiny"]["ways"]]
    assert states[:3] == [True, True, False]
    assert record["complete"] is False


def test_a_profile_names_operators_and_functions(quick):
    words = "--size tiny --tokens 32 --prompts 2 --slots 2 --profile"
    result = CliRunner().invoke(app, ["decode", *words.split()])
    assert result.exit_code == 0, result.output
    assert "aten::mm" in result.output
    assert "built-in method torch" in result.output


def test_unequal_tokens_fail_in_float64_only(monkeypatch, quick):
    def wrong(*_):
        return Row((1,), 1, 0)

    monkeypatch.setattr("benchmarks.decode.measure.decode_naive", wrong)
    plan = Plan(sizes=("tiny",), new_tokens=32, prompts=1, naive_prompts=1, slots=(1,), dtype="float32")
    record = measure(plan, lambda done, total: None)
    assert record["sizes"]["tiny"]["ways"][0]["same_rows"] == 0
    with pytest.raises(AssertionError, match="only 0 of 1 rows are those of"):
        measure(Plan(**{**record["plan"], "dtype": "float64"}), lambda done, total: None)


def test_every_repeat_is_timed_and_counted_once(quick):
    ticks = []
    plan = Plan(sizes=("tiny",), new_tokens=32, prompts=1, naive_prompts=1, slots=(1,), repeats=3)
    ways = measure(plan, lambda *tick: ticks.append(tick))["sizes"]["tiny"]["ways"]
    measured = [way for way in ways if "missing" not in way]
    assert ticks == [(done, 3 * len(measured)) for done in range(1, 3 * len(measured) + 1)]
    assert [way["seconds"] for way in measured] == [sorted(way["seconds_of_runs"])[1] for way in measured]
