"""Charts of figures over records, seconds or days, drawn as one SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Colors that people with any color vision can tell apart (Okabe and Ito), and markers for those who print in gray.
STYLES = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))


@dataclass(frozen=True)
class Panel:
    """A chart.

    :param lines: for each line of the chart, its figures by what the axis counts
    """

    title: str
    unit: str
    lines: Mapping[str, Mapping[float, float]]


def draw_panels(panels: Sequence[Panel], path: Path, axis: str = "records") -> None:
    """Draw panels in two columns into an SVG file, the same file for the same figures.

    :param axis: what the figures are over; over anything but records, the axes are linear, and points have no markers
    """
    is_linear = axis != "records"
    import matplotlib as mpl  # imported here, because only a complete measurement draws

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(9, 6.4), squeeze=False)
    for panel, chart in zip(panels, axes.flat, strict=True):
        for (name, figures), (color, marker) in zip(panel.lines.items(), STYLES, strict=False):
            width = 2.4 if name == next(iter(panel.lines)) and not is_linear else 1.2
            line = {"label": name, "color": color, "linewidth": width, "marker": None if is_linear else marker}
            chart.plot(list(figures), list(figures.values()), **line)
        chart.set(title=panel.title, xlabel=axis, ylabel=panel.unit)
        if is_linear:
            chart.set(xlim=0, ylim=0)
        else:
            chart.set(xscale="log", yscale="log")
        chart.grid(visible=True, which="major", color="#dddddd")
        if len(panel.lines) > 1 and (is_linear or chart is axes[0][0]):
            chart.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
