"""A sweep's figure: every rule's seeds, mean and spread, best first."""

import warnings
from pathlib import Path

from mmts.errors import counted
from mmts.files import atomic_write
from mmts.sweep.divisions import AVERAGE
from mmts.sweep.standings import Standings

_FIRST, _OTHERS, _LINE = "#777777", "#1f5fa8", "#bbbbbb"


def draw_standings(path: Path, title: str, standings: Standings) -> None:
    """Draw the headline measure of both directions as PNG: all queries, then tail and average of each division."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    panels = {"all queries": standings.headline_of()}
    for division in standings.divisions:
        panels[f"tail by {division.name}"] = standings.headline_of(division, "tail")
        panels[f"average by {division.name}"] = standings.headline_of(division, AVERAGE)
    panels = {name: column for name, column in panels.items() if standings.values(0, column) is not None}
    order = standings.ranking()
    drawing = Drawing(figsize=(1.6 + 2.3 * len(panels), 1.3 + 0.27 * len(order)), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    all_axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(all_axes, panels.items(), strict=True):
        for place, rule in enumerate(order):
            figure, seeds = standings.figure(rule, column), standings.values(rule, column)
            assert figure is not None
            assert seeds is not None
            colour = _OTHERS if rule else _FIRST
            if rule == 0:  # what the others are compared with
                axes.axvline(figure.mean, color=_LINE, linewidth=1, zorder=0)
            axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
            axes.errorbar(
                figure.mean, place, xerr=figure.spread, fmt="D", color=colour, markersize=4, capsize=3, linewidth=1.4
            )
        axes.set_title(name, loc="left", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.set_yticks(range(len(order)), [standings.names[rule] for rule in order], parse_math=False)
        axes.set_ylim(len(order) - 0.5, -0.5)
    num_seeds = len(standings.runs[0])
    drawing.suptitle(
        f"{title}: {standings.headline} of both directions, percent; mean ± spread over "
        f"{counted(num_seeds, 'seed')}; grey: {standings.names[0]}",
        fontsize=9, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        drawing.savefig(file, format="png")
