"""The figures of `python -m benchmarks estimators`. matplotlib is known here and in the `*_figure` modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.report import headless_matplotlib
from benchmarks.estimators.angles import mean_and_error
from benchmarks.estimators.variance import BUDGETS, IID


def draw_estimators(record: Mapping[str, Any], folder: Path) -> list[str]:
    """Writes estimators_variance.png, estimators_surrogates.png and estimators_budgets.png.

    Returns:
        The files' names.

    Raises:
        ValueError: matplotlib is not installed.
    """
    headless_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in (("variance", _variance), ("surrogates", _surrogates), ("budgets", _budgets)):
        figure = draw(record)
        figure.tight_layout()
        figure.savefig(folder / f"estimators_{name}.png", dpi=130)
        files.append(f"estimators_{name}.png")
    return files


def _figure(columns: int, width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _variance(record: Mapping[str, Any]) -> Any:
    figure, (axes,) = _figure(1, 8, 4.5)
    base = {int(n): one["gradient"] for n, one in record["variance"][IID.name].items()}
    for index, (name, by) in enumerate(record["variance"].items()):
        points = sorted((int(n), one) for n, one in by.items())
        axes.errorbar(
            [n for n, _ in points],
            [one["gradient"] / base[n] for n, one in points],
            [one["gradient_error"] / base[n] for n, one in points],
            label=name,
            marker="o",
            markersize=3,
            capsize=2,
            color=f"C{index % 10}",
            linestyle="-" if index < 10 else "--",
        )
    axes.set(xscale="log", yscale="log", xlabel="forwards per completion", ylabel="gradient variance / iid exact count")
    axes.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _surrogates(record: Mapping[str, Any]) -> Any:
    modes = record["surrogates"]
    figure, axes = _figure(len(modes), 4.6 * len(modes), 4.2)
    for one, (mode, rows) in zip(axes, modes.items(), strict=True):
        names = list(reversed(rows))
        pairs = [mean_and_error(rows[name]) for name in names]
        one.barh(names, [mean for mean, _ in pairs], xerr=[error for _, error in pairs], color="C0")
        one.set(title=mode, xlim=(0, 1.02), xlabel="cosine with the true policy gradient")
        one.tick_params(axis="y", labelsize=7)
    return figure


def _budgets(record: Mapping[str, Any]) -> Any:
    modes = record["budgets"]
    figure, axes = _figure(len(modes), 5.5 * len(modes), 4.5)
    for one, (mode, rows) in zip(axes, modes.items(), strict=True):
        for label, prefix, color in (("trajectory steps", "trajectory", "C0"), ("ELBO", "ELBO,", "C3")):
            family = [row for name, row in rows.items() if name.startswith(prefix)]
            points = sorted((mean_and_error(row["forwards"])[0], *mean_and_error(row["cosine"])) for row in family)
            one.errorbar(*zip(*points, strict=True), label=label, color=color, marker="o", capsize=2)
        for name, row in rows.items():
            if not name.startswith(("trajectory", "ELBO,")):
                place = mean_and_error(row["forwards"])[0], mean_and_error(row["cosine"])[0]
                one.plot(*place, "k.", markersize=4)
                one.annotate(name, place, fontsize=6, xytext=(3, 2), textcoords="offset points")
        one.set(
            title=mode, xlabel="forwards per completion", ylabel="cosine with the true policy gradient", xscale="log"
        )
        one.grid(alpha=0.3)
        one.legend(fontsize=8, loc="lower right")
    return figure
