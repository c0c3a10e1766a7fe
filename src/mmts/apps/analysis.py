"""How long-tailed a caption file is: the numbers, the table and the picture behind `mmts analyze`."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES, ConceptDistribution
from mmts.console import console, harmless
from mmts.data.records import SPLITS
from mmts.errors import InputError, counted
from mmts.files import atomic_write, check_file_path

# Okabe and Ito's blue, orange and green: told apart by the colour-blind and on paper.
GROUP_COLOURS = ("#0072B2", "#E69F00", "#009E73")


class NamedConcept(NamedTuple):
    """One concept: its readable name and its number of samples."""

    name: str
    size: int


class GroupSize(NamedTuple):
    """How many concepts and samples a group has, and its range of concept sizes (0, 0 for an empty one)."""

    concepts: int
    samples: int
    largest: int
    smallest: int


@dataclass(frozen=True)
class Analysis:
    """What `analyze` finds; shares and the Gini coefficient are in [0, 1]."""

    samples: int
    distinct_captions: int
    duplicates: int
    empty_captions: int
    concepts: int
    largest: tuple[NamedConcept, ...]
    smallest: tuple[NamedConcept, ...]
    median_size: float
    gini: float
    top_tenth_share: float
    groups: dict[str, GroupSize]


def analyze(
    captions: Sequence[str], distribution: ConceptDistribution, *, empty_captions: int = 0, show: int = 5
) -> Analysis:
    """Measure how long the tail of a caption file is.

    Args:
        captions: (N,) the captions that `distribution` was made from, the empty ones removed.
        distribution: Their concepts.
        empty_captions: How many empty captions were removed.
        show: How many of the largest and smallest concepts to name.

    Raises:
        InputError: another number of captions than of samples in `distribution`.

    >>> captions = ["a cup", "a cup", "red cup", "a lamp"]
    >>> found = analyze(captions, ConceptDistribution.from_labels(["cup", "cup", "cup", "lamp"]))
    >>> found.duplicates, found.gini, found.largest[0]
    (1, 0.25, NamedConcept(name='cup', size=3))
    """
    if len(captions) != len(distribution):
        raise InputError(f"there are {len(captions)} captions, but {len(distribution)} samples have a concept")
    sizes, order = distribution.sizes.sort(descending=True, stable=True)
    named = [NamedConcept(distribution.names[i], size) for i, size in zip(order.tolist(), sizes.tolist(), strict=True)]
    top = -(-len(sizes) // 10)  # a tenth of the concepts, rounded up
    distinct = len(set(captions))
    return Analysis(
        samples=len(captions),
        distinct_captions=distinct,
        duplicates=len(captions) - distinct,
        empty_captions=empty_captions,
        concepts=len(sizes),
        largest=tuple(named[:show]),
        smallest=tuple(named[::-1][:show]),
        median_size=float(np.median(sizes.numpy())),
        gini=gini(sizes),
        top_tenth_share=float(sizes[:top].sum() / sizes.sum()),
        groups=_group_sizes(distribution),
    )


def analyze_path(
    path: Path,
    out: Path,
    *,
    split: str | None,
    label: str | None,
    num_concepts: str,
    encoder: str,
    seed: int,
    columns: str | None = None,
) -> Analysis:
    """Read captions, find their concepts, print the analysis, and write concepts.npz and long_tail.png into `out`.

    Args:
        path: A data folder or caption file.
        out: Folder to write to; files of the same name there are replaced.
        split: One split only; None takes all samples.
        label: Take this label of the media as the concept; None clusters the captions.
        num_concepts: How many clusters, or "auto".
        encoder: Of the captions, as in `ConceptDistribution.from_captions`.
        seed: Of the clustering.
        columns: Which columns of a table to read, as `--columns` has it.

    Raises:
        MmtsError: unreadable data, or concepts that cannot be made of it.
    """
    from mmts.recipe.data_section import Columns, Data
    from mmts.recipe.recipe import parse_columns, parse_concepts
    from mmts.training.concepts import build_distribution
    from mmts.training.splits import open_data, say_shared

    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out names a folder")
    source = "captions" if label is None else "label"
    section = parse_concepts(
        {"source": source, "label": label, "num_concepts": num_concepts, "encoder": encoder, "seed": seed}
    )
    dataset = open_data(Data(path=path, columns=parse_columns(columns) or Columns()))
    samples = dataset.split(split) if split is not None else dataset.whole()
    say_shared(
        [dataset.split(name) for name in SPLITS if "train" in dataset.split_names and name in dataset.split_names]
    )
    distribution = build_distribution(section, samples)
    found = analyze(samples.captions, distribution, empty_captions=dataset.empty_captions)
    print_analysis(found)
    distribution.save(out / "concepts.npz")
    draw_long_tail(distribution, out / "long_tail.png", title=f"{dataset.name}, {samples.name}")
    console.print(f"picture: {out / 'long_tail.png'}\nconcepts: {out / 'concepts.npz'}")
    return found


def write_captions(path: Path, file: Path, split: str = "train") -> int:
    """Write the captions of a split to a text file, one per line, as `mmts train` sees them; return how many.

    They are in the order of training, without those of media that cannot be decoded, so that row i of what is computed
    from line i belongs to sample i: `concepts: {source: file}` takes such concepts. Raises DataError for data or a
    split that cannot be read.
    """
    from mmts.recipe.data_section import Data
    from mmts.training.splits import open_data, readable

    check_file_path(file)
    if file.exists() and path.exists() and file.samefile(path):
        raise InputError(f"{file} is the data; --captions names another file, to be written")
    settings = Data(path=path, max_unreadable=1)  # how many are too many is for training to say
    unreadable: list[str] = []
    captions = readable(open_data(settings).split(split), settings, unreadable).captions
    with atomic_write(file, "w") as out:
        out.writelines(f"{caption}\n" for caption in captions)
    for line in unreadable:
        console.print(f"note: left out {line}")
    console.print(f"captions: {file}: {counted(len(captions), 'caption')} of {split}, one per line, in training order")
    return len(captions)


def gini(sizes: Tensor) -> float:
    """Return the Gini coefficient of K sizes: 0 where all are equal, near 1 where one has nearly everything.

        G = sum_k (2k - K - 1) n_k / (K sum_k n_k),   n_1 <= ... <= n_K

    >>> gini(torch.tensor([1, 1, 1])), gini(torch.tensor([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    n = sizes.double().sort().values
    k = torch.arange(1, len(n) + 1, dtype=torch.float64)
    return float(((2 * k - len(n) - 1) * n).sum() / (len(n) * n.sum()))


def print_analysis(analysis: Analysis) -> None:
    """Print the numbers as tables on the terminal."""
    from rich import box
    from rich.table import Table

    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column()
    facts.add_column(justify="right")
    facts.add_column(style="dim")
    facts.add_row("samples", f"{analysis.samples:,}", "")
    share = analysis.duplicates / analysis.samples
    facts.add_row("distinct captions", f"{analysis.distinct_captions:,}", f"{share:.1%} of the samples are repeats")
    facts.add_row("empty captions", f"{analysis.empty_captions:,}", "left out" if analysis.empty_captions else "")
    largest, smallest = analysis.largest[0].size, analysis.smallest[0].size
    median = f"{analysis.median_size:,.1f}".removesuffix(".0")
    sizes = f"{largest:,} down to {smallest:,} samples, median {median}"
    if largest == smallest:
        sizes = f"each with {counted(largest, 'sample')}"
    facts.add_row("concepts", f"{analysis.concepts:,}", sizes)
    facts.add_row("Gini", f"{analysis.gini:.3f}", "of concept sizes; 0 is flat")
    facts.add_row("top 10 % of concepts", f"{analysis.top_tenth_share:.1%}", "of the samples")

    groups = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("group", "concepts", "samples", "share", "sizes"):
        groups.add_column(title, justify="left" if title == "group" else "right")
    for name, group in analysis.groups.items():
        span = (
            " to ".join(dict.fromkeys(f"{size:,}" for size in (group.largest, group.smallest)))
            if group.concepts
            else "-"
        )
        groups.add_row(
            name, f"{group.concepts:,}", f"{group.samples:,}", f"{group.samples / analysis.samples:.1%}", span
        )

    # Names are cut, so that numbers never are: what is left of the line beside two numbers and the space between.
    number = max(len("samples"), len(f"{largest:,}"))
    room = max(8, (console.width - 2 * number - 12) // 2)
    ends = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("largest concepts", "samples", "smallest concepts", "samples"):
        is_number = title == "samples"
        ends.add_column(
            title, justify="right" if is_number else "left", no_wrap=True, max_width=None if is_number else room
        )
    for large, small in zip(analysis.largest, analysis.smallest, strict=True):
        ends.add_row(_visible(large.name), f"{large.size:,}", _visible(small.name), f"{small.size:,}")

    for part in (facts, groups, ends):
        console.print(part)


def draw_long_tail(distribution: ConceptDistribution, path: str | Path, *, title: str = "") -> None:
    """Draw the sorted concept sizes as PNG: log axis, head, mid and tail coloured, a few concepts named.

    Args:
        distribution: The concepts.
        path: PNG file; its folder is made where missing.
        title: What the data is; nothing is written above the picture where empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    sizes, order = distribution.sizes.sort(descending=True, stable=True)
    groups = distribution.concept_groups()[order]
    summary = _group_sizes(distribution)

    figure = Figure(figsize=(9, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = torch.arange(1, len(sizes) + 1)
    floor = 0.7 * float(sizes.min())
    legend = []
    for number, (name, colour) in enumerate(zip(GROUP_NAMES, GROUP_COLOURS, strict=True)):
        chosen = groups == number
        group = summary[name]
        label = f"{name}: {counted(group.concepts, 'concept')}, {counted(group.samples, 'sample')}"
        heights = sizes[chosen].tolist()
        if len(sizes) <= 60:
            axes.bar(places[chosen].tolist(), [size - floor for size in heights], bottom=floor, color=colour)
        elif heights:  # a group's concepts stand side by side: one shape instead of thousands of bars
            start = int(places[chosen][0]) - 0.5
            edges = [start + i for i in range(len(heights) + 1)]
            axes.stairs(heights, edges, baseline=floor, fill=True, color=colour)
        legend.append(Patch(color=colour, label=label))
    axes.set_yscale("log")
    axes.set_ylim(floor, 2.2 * float(sizes.max()))
    axes.set_xlim(0.5, len(sizes) + 0.5)
    axes.set_xlabel("concepts, largest first")
    axes.set_ylabel("samples (log scale)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if sizes.max() < 100 * sizes.min() else (1.0,)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(handles=legend, frameon=False, loc="upper right")
    if title:
        axes.set_title(_visible(title, 70), loc="left", fontsize=12, parse_math=False)
    _annotate(axes, distribution, sizes, order)
    with atomic_write(path) as file, warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes; that is no reason to talk.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(file, format="png")


def _annotate(axes: Any, distribution: ConceptDistribution, sizes: Tensor, order: Tensor) -> None:
    """Name all of a few concepts below their bars; of many, five along the curve."""
    from matplotlib.transforms import offset_copy

    names = [_visible(distribution.names[i], 24) for i in order.tolist()]
    if len(names) <= 8:
        room = max(14, 84 // len(names))
        axes.set_xticks(range(1, len(names) + 1), [_visible(name, room) for name in names], parse_math=False)
        return
    last = len(names) - 1
    for place in sorted({0, last // 8, last // 3, (2 * last) // 3, last}):
        # The last name ends at the right edge, above all bars it passes over.
        above = int(0.8 * last) if place == last else place
        axes.annotate(
            f"{names[place]} ({int(sizes[place]):,})",
            xy=(place + 1, float(sizes[place])),
            xytext=(place + 1, float(sizes[above])),
            textcoords=offset_copy(
                axes.transData, axes.figure, *((0, 12) if place == last else (6, 14)), units="points"
            ),
            ha="right" if place == last else "left",
            fontsize=8.5,
            color="#333333",
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "#777777",
                "linewidth": 0.7,
                "shrinkA": 1,
                "shrinkB": 1,
                "relpos": (0.98, 0) if place == last else (0.05, 0),
            },
        )


def _group_sizes(distribution: ConceptDistribution) -> dict[str, GroupSize]:
    of_concepts, of_samples = distribution.concept_groups(), distribution.groups()
    found = {}
    for number, name in enumerate(GROUP_NAMES):
        sizes = distribution.sizes[of_concepts == number]
        ends = (int(sizes.max()), int(sizes.min())) if len(sizes) else (0, 0)
        found[name] = GroupSize(len(sizes), int((of_samples == number).sum()), *ends)
    return found


def _visible(text: str, length: int = 40) -> str:
    """Make any text fit to be shown: one line, no control characters or lone surrogates, not too long."""
    shown = harmless(" ".join(text.split()))
    return shown if len(shown) <= length else shown[: length - 1] + "…"
