"""`mmts analyze`: how long-tailed a caption file is, as numbers, tables and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.console import console, figure_table
from mmts.data.records import SPLITS
from mmts.errors import InputError, counted
from mmts.files import atomic_write, check_file_path
from mmts.report.charts import picture
from mmts.report.tail import LongTail
from mmts.report.wording import clean

# Okabe and Ito's blue, orange and green: distinct to the color-blind and in print.
GROUP_COLORS = ("#0072B2", "#E69F00", "#009E73")
_SHOWN = 5


def analyze(captions: Sequence[str], distribution: ConceptDistribution, *, empty_captions: int = 0) -> dict[str, Any]:
    """Measure how long the tail of a caption file is, and name its five largest and smallest concepts with their sizes.

    captions: (N,) those that `distribution` was made from, after `empty_captions` empty ones were removed. Shares and
    the Gini coefficient are in [0, 1]. Raises InputError if N is not the number of samples in `distribution`.

    >>> captions = ["a cup", "a cup", "red cup", "a lamp"]
    >>> analysis = analyze(captions, ConceptDistribution.from_labels(["cup", "cup", "cup", "lamp"]))
    >>> analysis["duplicates"], analysis["gini"], analysis["largest"][0]
    (1, 0.25, ('cup', 3))
    """
    if len(captions) != len(distribution):
        raise InputError(f"there are {len(captions)} captions, but {len(distribution)} samples have a concept")
    tail, distinct, bare = LongTail(distribution), len(set(captions)), distribution.num_bare
    named = list(zip(tail.names, tail.sizes, strict=True))
    return {
        "samples": len(captions),
        "distinct_captions": distinct,
        "duplicates": len(captions) - distinct,
        "empty_captions": empty_captions,
        "concepts": len(named),
        "concepts_per_sample": (len(distribution.members.ids) - bare) / len(captions),
        "no_concept": bare,
        "largest": named[:_SHOWN],
        "smallest": named[::-1][:_SHOWN],
        "median_size": tail.median,
        "gini": gini(distribution.sizes),
        "top_tenth_share": tail.top_tenth_share,
        "groups": tail.groups,
    }


def analyze_path(
    path: Path, out: Path, *, split: str | None = None, columns: Any = None, **concepts: Any
) -> dict[str, Any]:
    """Read captions, find their concepts, print the analysis, and write concepts.npz and long_tail.png into `out`.

    split: None takes all samples. concepts: the keys of a recipe's `concepts` section; `label` names its source.
    columns: as in a recipe's `data`.
    Raises MmtsError for unreadable data, or data from which no concepts can be made.
    """
    from mmts.recipe.section import validated
    from mmts.recipe.sections import Columns, Concepts, Data
    from mmts.training.concepts import build_distribution
    from mmts.training.splits import open_data, say_shared

    check_file_path(out / "concepts.npz")
    source = "captions" if concepts.get("label") is None else "label"
    section = validated(Concepts, {"source": source, **concepts}, "concepts")
    dataset = open_data(Data(path=path, columns=columns or Columns()))
    samples = dataset.split(split) if split is not None else dataset.whole()
    if "train" in dataset.split_names:
        say_shared([dataset.split(name) for name in SPLITS if name in dataset.split_names])
    distribution = build_distribution(section, samples)
    analysis = analyze(samples.captions, distribution, empty_captions=dataset.empty_captions)
    print_analysis(analysis)
    distribution.save(out / "concepts.npz")
    draw_long_tail(distribution, out / "long_tail.png", title=f"{dataset.name}, {samples.name}")
    console.print(f"picture: {out / 'long_tail.png'}\nconcepts: {out / 'concepts.npz'}")
    return analysis


def write_captions(path: Path, file: Path, split: str = "train") -> int:
    """Write the captions of a split to a text file, one per line, and return their number.

    Line i is the caption of training sample i: captions of media that cannot be decoded are left out. So concepts
    computed from the lines can be used as `concepts: {source: file}`.
    """
    from mmts.recipe.sections import Data
    from mmts.training.splits import noting_unreadable, open_data

    check_file_path(file)
    if file.exists() and path.exists() and file.samefile(path):
        raise InputError(f"{file} is the data itself; --captions must name a new file")
    settings = Data(path=path, max_unreadable=1)  # only training limits their number
    captions = noting_unreadable(open_data(settings).split(split), settings, None).captions
    with atomic_write(file, "w") as out:
        out.writelines(f"{caption}\n" for caption in captions)
    console.print(f"captions: {file}: {counted(len(captions), 'caption')} of {split}, one per line, in training order")
    return len(captions)


def gini(sizes: Tensor) -> float:
    """Return the Gini coefficient of K sizes: 0 if all are equal, near 1 if one concept has nearly all samples.

        G = sum_k (2k - K - 1) n_k / (K sum_k n_k),   n_1 <= ... <= n_K

    >>> gini(torch.tensor([1, 1, 1])), gini(torch.tensor([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    n = sizes.double().sort().values
    k = torch.arange(1, len(n) + 1, dtype=torch.float64)
    return float(((2 * k - len(n) - 1) * n).sum() / (len(n) * n.sum()))


def print_analysis(analysis: Mapping[str, Any]) -> None:
    """Print the numbers as tables on the terminal."""
    (_, largest), (_, smallest) = analysis["largest"][0], analysis["smallest"][0]
    median = f"{analysis['median_size']:,.1f}".removesuffix(".0")
    sizes = f"{largest:,} down to {smallest:,} samples, median {median}"
    if largest == smallest:
        sizes = f"each with {counted(largest, 'sample')}"
    repeats = f"{analysis['duplicates'] / analysis['samples']:.1%} of the samples repeat a caption"
    facts = Table.grid(Column(), Column(justify="right"), Column(style="dim"), padding=(0, 2, 0, 0))
    facts.add_row("samples", f"{analysis['samples']:,}")
    facts.add_row("distinct captions", f"{analysis['distinct_captions']:,}", repeats)
    facts.add_row("empty captions", f"{analysis['empty_captions']:,}", "left out" if analysis["empty_captions"] else "")
    facts.add_row("concepts", f"{analysis['concepts']:,}", sizes)
    bare = f"{counted(analysis['no_concept'], 'sample')} without one" if analysis["no_concept"] else ""
    if bare or analysis["concepts_per_sample"] != 1:
        facts.add_row("concepts per sample", f"{analysis['concepts_per_sample']:.2f}", bare)
    facts.add_row("Gini coefficient", f"{analysis['gini']:.3f}", "of concept sizes; 0 if all sizes are equal")
    facts.add_row("largest 10 % of concepts", f"{analysis['top_tenth_share']:.1%}", "of the samples")

    groups = figure_table("", "group", "concepts", "samples", "share", "sizes", least=4)
    for name, group in analysis["groups"].items():
        span = " to ".join(dict.fromkeys(f"{size:,}" for size in (group.largest, group.smallest)))
        share = f"{group.samples / analysis['samples']:.1%}"
        groups.add_row(name, f"{group.concepts:,}", f"{group.samples:,}", share, span if group.concepts else "-")

    ends = [figure_table("", f"{end} concepts", "samples") for end in ("largest", "smallest")]
    for table, rows in zip(ends, (analysis["largest"], analysis["smallest"]), strict=True):
        for name, size in rows:
            table.add_row(clean(name, 40), f"{size:,}")
    side_by_side = Table.grid(padding=(0, 2))
    side_by_side.add_row(*ends)
    console.print(facts, groups, side_by_side, sep="\n")


def draw_long_tail(distribution: ConceptDistribution, path: str | Path, *, title: str = "") -> None:
    """Draw the concept sizes as a PNG file, head, mid and tail in three colors, and name a few concepts."""
    from matplotlib.patches import Patch

    tail, width = LongTail(distribution), 780
    with picture(Path(path), width, 400) as axes:
        tail.draw(axes, GROUP_COLORS, width)
        axes.set_ylim(top=2.2 * tail.sizes[0])
        axes.set_ylabel("samples (log scale)")
        patches = []
        for color, (name, group) in zip(GROUP_COLORS, tail.groups.items(), strict=True):
            label = f"{name}: {counted(group.concepts, 'concept')}, {counted(group.samples, 'sample')}"
            patches.append(Patch(color=color, label=label))
        axes.legend(handles=patches, frameon=False, loc="upper right")
        axes.set_title(clean(title, 70), fontsize=14, pad=6)
        _name_concepts(axes, tail)


def _name_concepts(axes: Any, tail: LongTail) -> None:
    """Name up to eight concepts below their bars; of more concepts, name five along the curve."""
    number, sizes = len(tail.names), tail.sizes
    if number <= 8:
        room = min(24, max(14, 84 // number))
        axes.set_xticks(range(1, number + 1), [clean(name, room) for name in tail.names])
        return
    last = number - 1
    for place in sorted({0, last // 8, last // 3, (2 * last) // 3, last}):
        # The last name ends at the right edge, above all bars that it passes over.
        height, align = (sizes[int(0.8 * last)], "right") if place == last else (sizes[place], "left")
        name, line = f"{clean(tail.names[place], 24)} ({sizes[place]:,})", {"arrowstyle": "-", "color": "#777777"}
        ends = (place + 1, sizes[place]), (place + 1, 1.4 * height)
        axes.annotate(name, *ends, ha=align, fontsize=10, arrowprops=line)
