"""What `redraft bench decode` prints: its tables, and whether the targets of the design hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.bench.decode import CACHED, NAIVE
from rl.bench.decode_figure import Bar, draw_speeds
from rl.bench.report import Section, Target, target_section, write_report

Record = Mapping[str, Any]
COLUMNS = (
    "way",
    "prompts",
    "tokens/s",
    "x first",
    "tokens/forward",
    "forwards",
    "passes",
    "prefills",
    "ms/pass",
    "edits/token",
    "rows as (b)",
)


def publish(record: Record, folder: Path) -> tuple[list[Section], list[str]]:
    """Writes decode.json, .md and .png; returns their tables and names."""
    panels = [
        (f"{name}: {size['parameters'] / 1e6:.1f} M parameters", [_bar(way) for way in _measured(size)])
        for name, size in record["sizes"].items()
    ]
    return _publish("decode", "Decoding", record, sections(record), panels, folder)


def publish_floor(record: Record, folder: Path) -> tuple[list[Section], list[str]]:
    """Writes decode_NAME.json, .md and .png of random weights; returns their tables and names."""
    name = record["plan"]["name"]
    bars = [
        Bar(f"S = {one['slots']}, {one['rate']:g} per forward", one["tokens_per_s"], one["floor_tokens_per_s"])
        for one in record["cases"]
    ]
    title = f"Decoding with random weights: {name}"
    return _publish(
        f"decode_{name}", title, record, floor_sections(record), [(f"{name}, {record['on']}", bars)], folder
    )


def _publish(
    name: str,
    title: str,
    record: Record,
    tables: list[Section],
    panels: Sequence[tuple[str, Sequence[Bar]]],
    folder: Path,
) -> tuple[list[Section], list[str]]:
    draw_speeds(panels, folder / f"{name}.png")
    body = "\n".join([*map(str, tables), f"![tokens per second]({name}.png)"])
    write_report(folder, name, record, f"# {title}\n\n{body}")
    return tables, [f"{name}.json", f"{name}.md", f"{name}.png"]


def _bar(way: Record) -> Bar:
    return Bar(f"{way['name']}, {way['prompts']} prompts", way["tokens_per_s"])


def sections(record: Record) -> list[Section]:
    """All tables."""
    tables = [_speeds(name, one, record["plan"]) for name, one in record["sizes"].items()]
    tables += [_slots(name, one) for name, one in record["sizes"].items()]
    if record["golden"] is not None:
        tables.append(_golden(record))
    if promised := targets(record):
        tables.append(target_section(promised, "From issue 5, on the mid size with 512 new tokens and 32 prompts."))
    return tables


def targets(record: Record) -> list[Target]:
    """The promises of issue 5, as far as this run measures what they are about."""
    found, plan = [], record["plan"]
    asked = plan["new_tokens"] >= 512 and plan["prompts"] >= 32
    ways = _measured(record["sizes"]["mid"]) if asked and "mid" in record["sizes"] else []
    naive = next((way for way in ways if way["name"] == NAIVE), None)
    if naive is not None:
        cached = next(way for way in ways if way["name"] == CACHED and way["prompts"] == naive["prompts"])
        name = f"(b) / (a), tokens/s, {plan['new_tokens']} new tokens"
        found.append(Target(name, cached["tokens_per_s"] / naive["tokens_per_s"], 5.0, False))
    for way in ways:
        if way["slots"] == 8 and "packing" in way:
            name = f"S = 8, {way['prompts']} prompts"
            found.append(Target(f"passes / perfect packing, {name}", way["packing"]["ratio"], 1.15, True))
            found.append(Target(f"policy's share of step time, {name}", way["shares"]["policy"], 0.15, True))
    if record["golden"] is not None:
        worst = max(case["forwards"] / case["golden"] for case in record["golden"])
        found.append(Target("forwards of (b) / golden forwards, largest of all cases", worst, 1.0, True))
    return found


def _measured(size: Record) -> list[Record]:
    return [way for way in size["ways"] if "missing" not in way]


def _speeds(name: str, size: Record, plan: Record) -> Section:
    rows = []
    for way in size["ways"]:
        if "missing" in way:
            rows.append([f"{way['name']}: {way['missing']}", *[""] * (len(COLUMNS) - 1)])
            continue
        cells = [way["name"], way["prompts"], f"{way['tokens_per_s']:.1f}", f"{way['ratio']:.2f}"]
        cells += [f"{way['tokens_per_forward']:.2f}", way["forwards"], way["passes"], way["prefills"]]
        cells += [f"{way['ms_per_pass']:.1f}", f"{way['edits_per_token']:.2f}", f"{way['same_rows']}/{way['prompts']}"]
        rows.append(list(map(str, cells)))
    decode = size["decode"]
    note = (
        f"{size['parameters']:,} parameters, {plan['dtype']}, {plan['device']}; {plan['new_tokens']} new tokens per"
        f" prompt; blocks of {decode['block_length']}, thresholds {decode['threshold']} and"
        f" {decode['editing_threshold']}, at most {decode['max_post_steps']} mask-free forwards; median of"
        f" {plan['repeats']}. Forwards: denoising steps, summed over rows. Passes: runs of the network with active"
        " blocks; prefills: runs without. x first: tokens/s over those of the first line with as many prompts. Rows as"
        " (b): completions with the tokens, forwards and edits of cached batch 1"
        f" ({'demanded' if plan['dtype'] == 'float64' else 'rounding may part them outside float64'}). CPU seconds are"
        " those that the process computed."
    )
    return Section(f"Speed: {name}", note, COLUMNS, rows)


def _slots(name: str, size: Record) -> Section:
    columns = (
        "way",
        "prompts",
        "body",
        "head",
        "policy",
        "steps",
        "longest",
        "perfect",
        "first come",
        "passes",
        "ratio",
    )
    rows = []
    for way in _measured(size):
        if "packing" not in way:
            continue
        packing, shares = way["packing"], way["shares"]
        cells = [way["name"], way["prompts"], *(f"{shares[part]:.1%}" for part in ("body", "head", "policy"))]
        cells += [packing[key] for key in ("steps", "longest", "perfect", "first_come", "passes")]
        rows.append([*map(str, cells), f"{packing['ratio']:.3f}"])
    note = (
        "Shares of step time (prefills are no steps): the network's body, its head with maximum and normaliser, and the"
        " decoder's policy, which is all the rest. Perfect packing: denoising steps of all rows / S, rounded up, but no"
        " less than the longest row's, whose tail nothing can overlap. First come: passes of rows that are admitted in"
        " order and never wait. Ratio: passes / perfect."
    )
    return Section(f"Step time and packing: {name}", note, columns, rows)


def _golden(record: Record) -> Section:
    rows = [
        [str(index), str(case["golden"]), str(case["forwards"]), "yes" if case["same_tokens"] else "NO"]
        for index, case in enumerate(record["golden"])
    ]
    note = "Decode traces of the official model under the strict mask, against (b) in float64."
    return Section("Golden cases", note, ("case", "golden forwards", "forwards", "same tokens"), rows)


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
        rows.append(cells)
    note = (
        f"Random weights of the shape {plan['name']}: {record['parameters']:,} parameters in {record['dtype']} on"
        f" {record['on']}; as many prompts of {plan['prompt_tokens']} tokens as slots, {plan['new_tokens']} new tokens"
        f" each; median of {plan['repeats']}. Forced: tokens per forward that the scores are made to allow. Floor:"
        " bytes of weights, keys and values that the passes need, each pass its weights once and the experts that its"
        f" tokens visited, over the {record['bandwidth_gb_per_s']:.1f} GB/s that a large copy reached in this run."
        " Policy: share of step time outside the network, metered."
    )
    return [Section("Memory bandwidth", note, FLOOR_COLUMNS, rows), *_floor_targets(record)]


def _floor_targets(record: Record) -> list[Section]:
    promised = [
        Target(f"share of the bandwidth floor, S = 64, {case['rate']:g} tokens per forward", case["share"], 0.5, False)
        for case in record["cases"]
        if record["plan"]["name"] == "mini" and (case["slots"], case["rate"]) == (64, 5.0)
    ]
    return [target_section(promised, "From issue 5.")] if promised else []
