"""A sweep's figure: the seeds, mean and spread of every variant, best first."""

import warnings
from pathlib import Path

from mmts.errors import counted
from mmts.files import atomic_write
from mmts.sweep.standings import AVERAGE, Standings

_FIRST, _OTHERS, _LINE = "#777777", "#1f5fa8", "#bbbbbb"


def draw_standings(path: Path, title: str, standings: Standings) -> None:
    """Draw the headline measure of both directions as PNG: all queries, then tail and average of each division."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    panels = {"all queries": standings.headline_of()}
    for division in standings.weights:
        panels[f"tail by {division}"] = standings.headline_of(division, "tail")
        panels[f"average by {division}"] = standings.headline_of(division, AVERAGE)
    panels = {name: column for name, column in panels.items() if standings.values(0, column) is not None}
    order = standings.ranking()
    drawing = Drawing(figsize=(1.6 + 2.3 * len(panels), 1.3 + 0.27 * len(order)), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    all_axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(all_axes, panels.items(), strict=True):
        for place, variant in enumerate(order):
            figure, seeds = standings.figure(variant, column), standings.values(variant, column)
            assert figure is not None
            assert seeds is not None
            color = _OTHERS if variant else _FIRST
            if variant == 0:
                axes.axvline(figure.mean, color=_LINE, linewidth=1, zorder=0)
            axes.plot(seeds, [place] * len(seeds), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
            bar = {"xerr": figure.spread, "markersize": 4, "capsize": 3, "linewidth": 1.4}
            axes.errorbar(figure.mean, place, fmt="D", color=color, **bar)
        axes.set_title(name, loc="left", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks(range(len(order)), [standings.names[variant] for variant in order], parse_math=False)
        axes.set_ylim(len(order) - 0.5, -0.5)
    drawing.suptitle(
        f"{title}: {standings.headline} of both directions, percent; mean ± spread over "
        f"{counted(len(standings.runs[0]), 'seed')}; grey: {standings.names[0]}",
        fontsize=9, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may use a script that the font lacks
        drawing.savefig(file, format="png")
