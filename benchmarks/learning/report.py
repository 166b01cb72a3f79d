"""Tables of a learning grid, as Markdown and on the console, and its record as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.common.report import markdown_table
from benchmarks.learning.summary import Estimate, Record, Scores, Standing, cells, smoothed, standings

HEADER = (
    "",
    "preset",
    "rate",
    "AUC",
    "gap",
    "tied",
    "best",
    "final",
    "held out",
    "tokens/forward",
    "forwards",
    "next hotter rate",
    "alarms",
)

BRIEF = ("", "preset", "rate", "AUC", "gap", "tied", "held out", "forwards", "next hotter rate", "alarms")
"""What fits on a console."""


def cell_title(cell: tuple[str, str]) -> str:
    """A cell in words."""
    task, mode = cell
    return f"{task}, {mode.upper()} decoding"


def rows(cell: Mapping[str, Mapping[float, Scores]]) -> list[tuple[str, ...]]:
    """One row of text per preset at its best rate, the largest area first; columns as `HEADER`."""
    table = standings(cell)
    compared = sum(standing.hotter is not None for standing in table)
    return [_row(standing, compared) for standing in table]


def brief_rows(cell: Mapping[str, Mapping[float, Scores]]) -> list[tuple[str, ...]]:
    """The same with the columns of `BRIEF`."""
    kept = [HEADER.index(name) for name in BRIEF]
    return [tuple(row[index] for index in kept) for row in rows(cell)]


def _row(standing: Standing, compared: int) -> tuple[str, ...]:
    own = standing.scores
    learn, score = own.forwards
    hotter = "none higher"
    if standing.hotter is not None:
        hotter = f"{standing.hotter_rate:g}: {_text(standing.hotter)} ({standing.hotter_rank}/{compared})"
    return (
        str(standing.rank),
        standing.preset,
        f"{standing.rate:g}",
        _text(own.area),
        "" if standing.rank == 1 else _text(standing.gap),
        ("yes" if standing.tied_paired else "unpaired") if standing.tied else "no",
        _text(own.best),
        _text(own.final),
        _text(own.held_out),
        "→".join(f"{value:.2f}" for value in own.tokens_per_forward),
        f"{learn:.2f} + {score:.2f}" if score else f"{learn:.2f}",
        hotter,
        f"{own.alarms:.0%}",
    )


def _text(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f}±{estimate.error:.3f}"


def rate_rows(cell: Mapping[str, Mapping[float, Scores]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of areas by preset and rate."""
    rates = sorted({rate for by_rate in cell.values() for rate in by_rate})
    body = [
        (preset, *(_text(by_rate[rate].area) if rate in by_rate else "" for rate in rates))
        for preset, by_rate in cell.items()
    ]
    return ["AUC at rate", *(f"{rate:g}" for rate in rates)], body


def markdown(records: Sequence[Record], title: str, figure: str | None = None) -> str:
    """The whole report."""
    parts = [f"# {title}", _LEGEND]
    if figure:
        parts.append(f"![Learning curves]({figure})")
    for cell, presets in cells(records).items():
        header, body = rate_rows(presets)
        parts += [f"## {cell_title(cell)}", markdown_table(HEADER, rows(presets)), markdown_table(header, body)]
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "AUC: training reward, mean over steps, then over seeds ± standard error; every preset at its best rate of the"
    " grid. Gap: to the first preset, paired by seed (same policy, prompts and random streams). Tied: the gap is at"
    " most one standard error of the first preset's AUC; `unpaired` where it still exceeds its own, smaller one. Best"
    " and final: training reward averaged over 5 steps. Held out: sampled reward on problems that were never trained"
    " on. Tokens/forward: at the start, in the middle, at the end. Forwards: composite forwards per completion with a"
    " gradient + without one, as counted; completions whose group has one reward mostly cost none. Next hotter rate:"
    " AUC there, and rank among the presets that have one."
)


def record(records: Sequence[Record]) -> dict[str, Any]:
    """Standings, all scores and mean curves by cell, for JSON."""
    return {
        f"{task}/{mode}": {
            "standings": [asdict(standing) for standing in standings(presets)],
            "scores": {p: {f"{rate:g}": asdict(s) for rate, s in by_rate.items()} for p, by_rate in presets.items()},
            "curves": {
                standing.preset: {
                    name: mean_curve(_runs(records, (task, mode), standing), name)
                    for name in ("reward", "tokens_per_forward", "entropy")
                }
                for standing in standings(presets)
            },
        }
        for (task, mode), presets in cells(records).items()
    }


def _runs(records: Sequence[Record], cell: tuple[str, str], standing: Standing) -> list[Record]:
    wanted = (*cell, standing.preset, standing.rate)
    return [r for r in records if tuple(r["spec"][key] for key in ("task", "mode", "preset", "rate")) == wanted]


def mean_curve(runs: Sequence[Record], name: str) -> list[float]:
    """Smoothed curve averaged over runs, as far as all of them got."""
    curves = [smoothed(run["curves"].get(name, [])) for run in runs]
    return [round(sum(values) / len(values), 4) for values in zip(*curves, strict=False)]
