"""What `python -m benchmarks decode --random-weights` writes and prints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.report import Section, Target, target_section, write_report
from benchmarks.decode.figure import Bar
from benchmarks.decode.report import publish_report

Record = Mapping[str, Any]


def publish_floor(record: Record, folder: Path) -> tuple[list[Section], list[str], str | None]:
    """Writes decode_NAME.json, .md and .png; returns the tables, the names, and why there is no figure."""
    bars = [
        Bar(f"S = {one['slots']}, {one['rate']:g} per forward", one["tokens_per_s"], one["floor_tokens_per_s"])
        for one in record["cases"]
    ]
    panels = [(f"{record['plan']['name']}, {record['on']}", bars)]
    return publish_report(_name(record), _title(record), record, floor_sections(record), panels, folder)


def keep_floor(record: Record, folder: Path) -> None:
    """Writes JSON and Markdown after a case: what is measured outlives whatever happens next."""
    body = "\n".join(map(str, floor_sections(record)))
    write_report(folder, _name(record), {**record, "complete": False}, f"# {_title(record)}\n\n{body}")


def _name(record: Record) -> str:
    return f"decode_{record['plan']['name']}"


def _title(record: Record) -> str:
    return f"Decoding with random weights: {record['plan']['name']}"


FLOOR_COLUMNS = (
    "S",
    "forced",
    "tokens/forward",
    "tokens/s",
    "floor tokens/s",
    "share of floor",
    "ms/pass",
    "floor ms/pass",
    "GB/pass",
    "experts/layer",
    "policy",
    "from graphs",
)


def floor_sections(record: Record) -> list[Section]:
    """The table of `--random-weights`."""
    plan, rows = record["plan"], []
    for case in record["cases"]:
        floor_ms = 1000 * case["floor_s"] / case["passes"]
        cells = [str(case["slots"]), f"{case['rate']:g}", f"{case['tokens_per_forward']:.2f}"]
        cells += [f"{case['tokens_per_s']:.0f}", f"{case['floor_tokens_per_s']:.0f}", f"{case['share']:.1%}"]
        cells += [f"{case['ms_per_pass']:.2f}", f"{floor_ms:.2f}", f"{case['bytes'] / case['passes'] / 1e9:.3f}"]
        cells += [f"{case['experts_per_layer']:.1f}", f"{case['policy_share']:.1%}"]
        rows.append([*cells, f"{case['passes_from_graphs']:.0%}"])
    note = (
        f"{len(rows)} of {record['wanted']} cases. Random weights of the shape {plan['name']}:"
        f" {record['parameters']:,} parameters in {record['dtype']} on"
        f" {record['on']}; as many prompts of {plan['prompt_tokens']} tokens as slots, {plan['new_tokens']} new tokens"
        f" each; median of {plan['repeats']}. Forced: tokens per forward that the scores are made to allow. Floor:"
        " bytes of weights, keys and values that the passes need, each pass its weights once and the experts that its"
        f" tokens visited, over the {record['bandwidth_gb_per_s']:.1f} GB/s that a large copy reached in this run."
        " Experts are counted in one block of each S. Policy: share of step time outside the network, metered. From"
        " graphs: timed passes that were replayed from CUDA graphs."
    )
    table = Section("Memory bandwidth", note, FLOOR_COLUMNS, rows)
    profiles = [_profile(one) for one in record["sessions"] if "profile" in one]
    return [table, _sessions(record), *profiles, *_floor_targets(record)]


SESSION_COLUMNS = (
    "S",
    "warm-up s",
    "graphs",
    "passes from them",
    "other passes",
    "tokens/s without",
    "same tokens",
    "same rows",
)


def _sessions(record: Record) -> Section:
    rows, broken = [], []
    for one in record["sessions"]:
        graphs, plain = one.get("graphs"), one.get("plain")
        cells = ["none", "", ""] if graphs is None else [graphs["captured"], graphs["replayed"], graphs["plain"]]
        if graphs and graphs["broken"]:
            broken.append(f"S = {one['slots']}: {graphs['broken']}")
        cells += [""] * 3 if plain is None else _plain(plain, one["slots"])
        rows.append(list(map(str, [one["slots"], f"{one['warm_up_s']:.1f}", *cells])))
    note = (
        "Warm-up: the first decode, which captures CUDA graphs (only on a GPU in 16 bits). Without: the same decode by"
        " plain forwards, at the highest rate, and how much of what it writes is the same; padding rounds sums"
        " otherwise, and random weights are of nearly even probabilities, so not all of it has to be."
    )
    if broken:
        note += f" **BROKEN, so plain forwards were measured:** {'; '.join(broken)}."
    return Section("CUDA graphs", note, SESSION_COLUMNS, rows)


def _plain(plain: Record, slots: int) -> list[str]:
    return [f"{plain['tokens_per_s']:.0f}", f"{plain['same_tokens']:.1%}", f"{plain['same_rows']}/{slots}"]


def _profile(session: Record) -> Section:
    found = session["profile"]
    rows = [
        [
            one["name"][:110].replace("|", "/"),
            f"{one['ms_per_pass']:.3f}",
            f"{one['share']:.1%}",
            f"{one['calls_per_pass']:.1f}",
        ]
        for one in found["costs"]
    ]
    note = (
        f"Own time, the mean of {found['passes']} passes at {found['rate']:g} tokens per forward: all costs together"
        f" {found['ms_per_pass']:.2f} ms and {found['launches_per_pass']:.0f} calls per pass. Kernels on a GPU,"
        " operators of torch on a CPU."
    )
    return Section(f"A pass by kernel, S = {session['slots']}", note, ("", "ms/pass", "share", "calls/pass"), rows)


def _floor_targets(record: Record) -> list[Section]:
    promised = [
        Target(f"share of the bandwidth floor, S = 64, {case['rate']:g} tokens per forward", case["share"], 0.5, False)
        for case in record["cases"]
        if record["plan"]["name"] == "mini" and (case["slots"], case["rate"]) == (64, 5.0)
    ]
    return [target_section(promised, "From issue 5.")] if promised else []
