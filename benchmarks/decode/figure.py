"""The figure of `python -m benchmarks decode`. The only module of that benchmark that knows matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.report import headless_matplotlib


class Bar(NamedTuple):
    """A speed.

    Attributes:
        label: Of the bar.
        tokens_per_s: Its length.
        floor: Tokens per second that the memory bandwidth would allow; None: not known.
    """

    label: str
    tokens_per_s: float
    floor: float | None = None


def draw_speeds(panels: Sequence[tuple[str, Sequence[Bar]]], path: Path) -> None:
    """One panel of horizontal bars per size.

    Args:
        panels: Title and bars of each.
        path: The PNG.

    Raises:
        ValueError: matplotlib is not installed.
    """
    headless_matplotlib()
    import matplotlib.pyplot as plt

    height = 0.9 + 0.38 * max(len(bars) for _, bars in panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(6.4 * len(panels), height), squeeze=False)
    for one, (title, bars) in zip(axes[0], panels, strict=True):
        places = range(len(bars), 0, -1)
        shown = one.barh(places, [bar.tokens_per_s for bar in bars], color="tab:blue")
        one.bar_label(shown, fmt="%.0f", padding=3, fontsize=8)
        floors = [(bar.floor, place) for bar, place in zip(bars, places, strict=True) if bar.floor is not None]
        if floors:
            one.plot(*zip(*floors, strict=True), "k|", markersize=14, label="memory bandwidth's limit")
            one.legend(fontsize=7)
        one.set_yticks(places, [bar.label for bar in bars], fontsize=8)
        one.set(title=title, xlabel="tokens per second")
        one.margins(x=0.15)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
