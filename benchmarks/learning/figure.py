"""Learning curves of a grid as a PNG. The only module of that benchmark that knows matplotlib."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.report import headless_matplotlib


def draw(record: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Reward (above) and tokens per forward (below) of every preset at its best rate, one column per cell.

    Args:
        record: Cells as `benchmarks.learning.report.record` makes them.
        path: The PNG.

    Raises:
        ValueError: matplotlib is not installed.
    """
    headless_matplotlib()
    import matplotlib.pyplot as plt

    presets = sorted({preset for cell in record.values() for preset in cell["curves"]})
    palette = plt.get_cmap("tab20")
    figure, axes = plt.subplots(2, len(record), figsize=(4.5 * len(record), 7), squeeze=False, sharex=True)
    for column, (name, cell) in enumerate(record.items()):
        for preset, curves in cell["curves"].items():
            style = {"color": palette(presets.index(preset) % 20), "label": preset, "linewidth": 1.3}
            axes[0][column].plot(curves["reward"], **style)
            axes[1][column].plot(curves["tokens_per_forward"], **style)
        axes[0][column].set(title=name, ylabel="training reward" if column == 0 else None)
        axes[1][column].set(xlabel="step", ylabel="tokens per forward" if column == 0 else None)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=8, fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
