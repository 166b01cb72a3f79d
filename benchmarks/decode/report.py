"""What `python -m benchmarks decode` prints: its tables, and whether the targets of the design hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.report import Section, Target, target_section, write_report
from benchmarks.decode.figure import Bar, draw_speeds
from benchmarks.decode.measure import CACHED, NAIVE

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


def publish(record: Record, folder: Path) -> tuple[list[Section], list[str], str | None]:
    """Writes decode.json, .md and .png; returns the tables, the names, and why there is no figure."""
    panels = [
        (f"{name}: {size['parameters'] / 1e6:.1f} M parameters", [_bar(way) for way in _measured(size)])
        for name, size in record["sizes"].items()
    ]
    return publish_report("decode", "Decoding", record, sections(record), panels, folder)


def keep(record: Record, folder: Path) -> None:
    """Writes decode.json alone, after a case: what is measured outlives whatever happens next."""
    write_report(folder, "decode", {**record, "complete": False}, None)


def publish_report(
    name: str,
    title: str,
    record: Record,
    tables: list[Section],
    panels: Sequence[tuple[str, Sequence[Bar]]],
    folder: Path,
) -> tuple[list[Section], list[str], str | None]:
    """Numbers first, then the figure, without which they are as good."""
    body = "\n".join(map(str, tables))
    write_report(folder, name, {**record, "complete": True}, f"# {title}\n\n{body}")
    files = [f"{name}.json", f"{name}.md"]
    try:
        draw_speeds(panels, folder / f"{name}.png")
    except ValueError as error:
        return tables, files, f"no figure: {error}"
    write_report(folder, name, {**record, "complete": True}, f"# {title}\n\n{body}\n![tokens per second]({name}.png)")
    return tables, [*files, f"{name}.png"], None


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
