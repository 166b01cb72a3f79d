"""Decoding at LLaDA2.1-mini's shape with random weights, at forced tokens per forward, against memory bandwidth."""

from collections.abc import Mapping
from typing import Any

from benchmarks.decode.floor import FloorPlan, measure_floor
from benchmarks.decode.floor_report import floor_sections
from benchmarks.gpu.findings import Findings, Setting

ALL = 0.999


def run_64(setting: Setting, findings: Findings) -> None:
    """S = 64 at 5 and 3 tokens per forward, and its kernels."""
    _measure(_plan(setting, (64,), (2,), profile=True), setting, findings)


def run_more(setting: Setting, findings: Findings) -> None:
    """Few and many rows."""
    _measure(_plan(setting, (8, 256), (1, 3), profile=False), setting, findings)


def _plan(setting: Setting, slots: tuple[int, ...], few: tuple[int, ...], profile: bool) -> FloorPlan:
    if setting.tiny:
        return FloorPlan("tiny-mini", few, (5.0, 3.0), new_tokens=32, repeats=1, profile=profile)
    return FloorPlan("mini", slots, (5.0, 3.0), repeats=2 if len(slots) == 1 else 1, profile=profile)


def _measure(plan: FloorPlan, setting: Setting, findings: Findings) -> None:
    """Checks each case as it comes; what fails later (memory, the profiler) costs no earlier one."""
    seen, sessions = 0, []
    with findings.case("measuring"):
        for record in measure_floor(plan):
            for section in floor_sections(record):
                findings.table(section.title, section.note, section.columns, section.rows)
            findings.figure("record", record)
            for case in record["cases"][seen:]:
                _check(case, setting, findings)
            seen, sessions = len(record["cases"]), record["sessions"]
    findings.equal("cases measured", seen, len(plan.slots) * len(plan.rates))
    for session in sessions if setting.on_gpu else []:
        graphs = session.get("graphs") or {"broken": "no graphs were used", "captured": 0}
        findings.equal(f"S = {session['slots']}: why a capture failed", graphs["broken"], None)
        findings.at_least(f"S = {session['slots']}: graphs captured", graphs["captured"], 1)


def _check(case: Mapping[str, Any], setting: Setting, findings: Findings) -> None:
    what = f"S = {case['slots']}, {case['rate']:g} per forward"
    if not setting.tiny:
        findings.at_most(f"{what}: share of the bandwidth's floor", case["share"], 1.0)
    if setting.on_gpu:
        findings.at_least(f"{what}: share of timed passes from graphs", case["passes_from_graphs"], ALL)
