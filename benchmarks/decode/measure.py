"""`python -m benchmarks decode`: how fast every way of decoding is, on the same weights and the same prompts.

(a) without a cache, as the published `generate` works; (b) with the block cache, one prompt at a time; (c) in S slots;
(d) inside vLLM. Beside the speeds it counts forwards: against the golden traces, and against a perfect packing of the
rows' denoising steps into slots.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.common.policies import decode
from benchmarks.common.report import Section
from benchmarks.decode.meter import KeptEngine, Meter, clock_of, metered
from benchmarks.decode.naive import ActiveLogits, Row, active_head, decode_naive, whole_head
from benchmarks.decode.profile import profile_decode
from benchmarks.decode.run import Case, Run, Way, figures_of
from benchmarks.decode.vllm import vllm_way
from benchmarks.decode.workload import BLOCK, Workload, build_workload, golden_cases
from redraft.rollout.config import DecodeConfig
from redraft.rollout.engine.protocol import Engine
from redraft.rollout.engine.torch_engine import TorchEngine
from redraft.rollout.trajectory import Completion, Prompt, SpecialTokens

Advance = Callable[[int, int], None]
Keep = Callable[[dict[str, Any]], None]
NAIVE, CACHED = "(a) no cache, batch 1, as published", "(b) block cache, batch 1"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: Of the policy, see `benchmarks.decode.workload.SHAPES`.
        new_tokens: Per completion.
        prompts: That (b), (c) and (d) decode.
        naive_prompts: The first so many of them, for (a), and for (b) once more.
        slots: Of (c).
        dtype: Of the policy; float64 demands equal tokens of all ways.
        device: Where it is.
        repeats: Runs of everything; medians are reported.
        seed: Of weights and prompts.
    """

    sizes: tuple[str, ...] = ("tiny", "mid")
    new_tokens: int = 512
    prompts: int = 32
    naive_prompts: int = 2
    slots: tuple[int, ...] = (1, 8, 32)
    dtype: str = "float32"
    device: str = "cpu"
    repeats: int = 1
    seed: int = 0


def measure(plan: Plan, advance: Advance, keep: Keep = lambda record: None) -> dict[str, Any]:
    """All measurements, as plain numbers.

    Args:
        plan: What to measure.
        advance: Called with runs done and runs in all.
        keep: Called with what there is after every run; what compares the ways with each other is still missing.

    Raises:
        AssertionError: Two ways disagree about a token, in float64.
    """
    total = len(plan.sizes) * plan.repeats * sum(not isinstance(case.way, str) for case in _cases(plan))
    done = iter(range(1, total + 1))
    sizes: dict[str, Any] = {}
    for size in plan.sizes:
        workload = build_workload(size, plan.dtype, plan.device, plan.prompts, plan.new_tokens, plan.seed)
        for sizes[size] in _measure_size(workload, plan):
            advance(next(done), total)
            keep({"plan": asdict(plan), "sizes": sizes, "golden": None})
    return {"plan": asdict(plan), "sizes": sizes, "golden": golden_forwards()}


def profile_size(plan: Plan, size: str) -> list[Section]:
    """The top costs of decoding one size, in each number of slots; profilers are slow, so completions are short."""
    few = min(plan.new_tokens, 4 * BLOCK)
    return [
        table
        for slots in plan.slots
        for table in profile_decode(
            build_workload(size, plan.dtype, plan.device, min(slots, plan.prompts), few, plan.seed), slots
        )
    ]


def _measure_size(workload: Workload, plan: Plan) -> Iterator[dict[str, Any]]:
    """The record of a size after every run; the last one compares the ways."""
    cases = _cases(plan)
    short = workload.config.model_copy(update={"max_completion_length": workload.config.block_length})
    decode(TorchEngine(workload.model), workload.prompts[:2], short, workload.tokens)  # what is made once
    runs: list[list[Run]] = [[] for _ in cases]

    def record() -> dict[str, Any]:
        lines = [figures_of(case, own) for case, own in zip(cases, runs, strict=True)]
        if all(
            len(own) == plan.repeats for case, own in zip(cases, runs, strict=True) if not isinstance(case.way, str)
        ):
            _compare_all(cases, runs, lines, strict=plan.dtype == "float64")
        decoded = workload.config.model_dump(mode="json")
        return {"parameters": workload.num_parameters, "decode": decoded, "ways": lines}

    for _ in range(plan.repeats):
        for case, own in zip(cases, runs, strict=True):
            if not isinstance(case.way, str):
                own.append(case.way(workload, workload.prompts[: case.prompts]))
                yield record()


def _compare_all(
    cases: Sequence[Case], runs: Sequence[Sequence[Run]], lines: Sequence[dict[str, Any]], strict: bool
) -> None:
    cached = next(own[0].rows for case, own in zip(cases[::-1], runs[::-1], strict=True) if case.name == CACHED)
    for one, own in zip(lines, runs, strict=True):
        if own:
            _compare(one, own[0].rows, lines, cached, strict)


def _cases(plan: Plan) -> list[Case]:
    few, many = min(plan.naive_prompts, plan.prompts), plan.prompts
    return [
        Case(NAIVE, _naive(whole_head), few),
        Case("(a) the same, head on the active block only", _naive(active_head), few),
        Case(CACHED, _one_by_one, few),
        Case(CACHED, _one_by_one, many),
        *(Case(f"(c) slots, S = {slots}", _in_slots(slots), many, slots) for slots in plan.slots),
        Case("(d) vLLM engine", vllm_way(max(plan.slots)), many, max(plan.slots)),
    ]


# --- the ways -----------------------------------------------------------------------------------------------------


def _naive(head: Callable[[Any, int], ActiveLogits]) -> Way:
    def way(workload: Workload, prompts: Sequence[Prompt]) -> Run:
        logits, device = head(workload.model, workload.config.block_length), _device(workload)
        clock = clock_of(device)
        started = clock()
        rows = tuple(decode_naive(logits, prompt, workload.config, workload.tokens, device) for prompt in prompts)
        return Run(rows, clock() - started, Meter(passes=sum(row.num_forwards for row in rows)), 0.0)

    return way


def _one_by_one(workload: Workload, prompts: Sequence[Prompt]) -> Run:
    """Every prompt in a decode of its own."""
    engine = KeptEngine(TorchEngine(workload.model))
    runs = [_decode(engine, workload, [prompt], 1) for prompt in prompts]
    meter = Meter(**{name: sum(getattr(run.meter, name) for run in runs) for name in asdict(Meter())})
    rows = tuple(row for run in runs for row in run.rows)
    return Run(rows, sum(run.seconds for run in runs), meter, sum(run.metered_s for run in runs))


def _in_slots(slots: int) -> Way:
    def way(workload: Workload, prompts: Sequence[Prompt]) -> Run:
        return _decode(KeptEngine(TorchEngine(workload.model)), workload, prompts, slots)

    return way


def _decode(engine: Engine, workload: Workload, prompts: Sequence[Prompt], slots: int) -> Run:
    """One decode, on a GPU two: there the meter waits for the device at every call, which a decode otherwise does not.

    The second one finds the graphs that the first one captured.
    """
    clock, meter = clock_of(engine.device), Meter()

    def timed(own: Engine) -> tuple[tuple[Row, ...], float]:
        started = clock()
        completions = decode(own, prompts, workload.config, workload.tokens, slots)
        return tuple(map(Row.of, completions)), clock() - started

    rows, metered_s = timed(metered(engine, meter, clock))
    seconds = timed(engine)[1] if engine.device.type == "cuda" else metered_s
    return Run(rows, seconds, meter, metered_s)


def _device(workload: Workload) -> torch.device:
    return TorchEngine(workload.model).device


# --- what they say ------------------------------------------------------------------------------------------------


def _compare(
    line: dict[str, Any], rows: Sequence[Row], lines: Sequence[dict[str, Any]], cached: Sequence[Row], strict: bool
) -> None:
    """Adds to a line its speed relative to the first line with as many prompts, and its rows equal to `cached` ones.

    Raises:
        AssertionError: `strict`, and rows are not equal.
    """
    first = next(other for other in lines if other["prompts"] == line["prompts"])
    line["ratio"] = line["tokens_per_s"] / first["tokens_per_s"]
    line["same_rows"] = sum(mine == theirs for mine, theirs in zip(rows, cached, strict=False))
    if strict and line["same_rows"] < len(rows):
        raise AssertionError(f"{line['name']}: only {line['same_rows']} of {len(rows)} rows are those of (b)")


def golden_forwards() -> list[dict[str, Any]] | None:
    """Forwards of every golden case, golden and ours (batch 1, float64); None if the golden data are not here."""
    found = golden_cases()
    if found is None:
        return None
    model, tokens, cases = found
    engine, result = TorchEngine(model), []
    for index, case in enumerate(cases):
        completion = decode_golden(engine, tokens, index, case)
        same = list(completion.token_ids) == case["tokens"]
        forwards = {"golden": case["num_forwards"], "forwards": completion.num_forwards}
        result.append({**forwards, "same_tokens": same})
    return result


def decode_golden(engine: Engine, tokens: SpecialTokens, index: int, case: Mapping[str, Any]) -> Completion:
    """One golden case by the decoder."""
    config = DecodeConfig(
        threshold=case["threshold"],
        editing_threshold=case["editing_threshold"],
        max_post_steps=case["max_post_steps"],
        max_completion_length=case["max_new_tokens"],
    )
    (completion,) = decode(engine, [Prompt(f"golden-{index}", tuple(case["prompt"]), seed=index)], config, tokens, 1)
    return completion
