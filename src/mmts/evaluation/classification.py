"""Zero-shot classification: the classes that a label names, and their embeddings from prompts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmts.data.records import Split, one_value
from mmts.distributed.processes import shared
from mmts.errors import DataError, RecipeError, quoted
from mmts.evaluation.rank import exact, largest_norm
from mmts.files import why_missing
from mmts.losses.normalize import unit
from mmts.metrics import bootstrap_interval, mean_per_class, per_class_bootstrap_interval, top_classes
from mmts.models import TwoTower, embed_text, is_frozen, text_features
from mmts.models.features import Rows
from mmts.training.concepts import media_label

PROMPTS = (
    "{}",
    "a photo of {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a photo of many {}.",
)
"""The templates that are averaged if none are given; for videos with "video" in place of "photo"."""
CLASS_GROUPS = ("many", "medium", "few")
"""Groups of classes by their training media: more than 100, 20 to 100, fewer than 20, as in ImageNet-LT."""
_MANY, _FEW = 100, 20
CLASS_WORDS = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean per class",
    "many": f"many (> {_MANY} training media)",
    "medium": f"medium ({_FEW} to {_MANY})",
    "few": f"few (< {_FEW})",
}
"""The measures of a classification, and how tables call them; those of groups are means per class."""
_TOP = 5
_CHUNK_ELEMENTS = 2**23  # of the similarity matrix at a time


@dataclass(frozen=True)
class Classes:
    """The K classes of M judged media: the values of a label, in the order of their names.

    templates: with {} in the place of a name. num_training: of each class. target (M,) int64: -1 without a class.
    """

    label: str
    templates: Sequence[str]
    names: Sequence[str]
    num_training: Sequence[int]
    target: Tensor

    @property
    def prompts(self) -> list[str]:
        """All templates with the name of the first class, then of the second, ...: K T prompts."""
        return [template.replace("{}", spoken(name)) for name in self.names for template in self.templates]

    @property
    def groups(self) -> Tensor:
        """The group of each class, (K,) int64: 0, 1, 2 = many, medium, few."""
        training = torch.tensor(self.num_training)
        return (training <= _MANY).long() + (training < _FEW)

    def rows(self, measure: str) -> Tensor:
        """Return which media (M,) a measure counts, bool."""
        known = self.target >= 0
        if measure in CLASS_GROUPS:
            known &= self.groups[self.target] == CLASS_GROUPS.index(measure)
        return known

    def mean(self, measure: str, values: Tensor) -> float | None:
        """Return a measure in percent, given the hits of media (M,) or their differences; None if it counts none."""
        rows = self.rows(measure)
        if not rows.any():
            return None
        mean = values[rows].mean() if measure in ("top1", "top5") else mean_per_class(values[rows], self.target[rows])
        return 100 * float(mean)

    def interval(self, measure: str, values: Tensor) -> tuple[float, float] | None:
        """Return the 95 % interval over media of the same, percent; None if the measure counts fewer than two media."""
        rows = self.rows(measure)
        if rows.sum() < 2:
            return None
        if measure in ("top1", "top5"):
            low, high = bootstrap_interval(values[rows])
        else:
            low, high = per_class_bootstrap_interval(values[rows], self.target[rows])
        return 100 * low, 100 * high

    def hits(self, top: Tensor, measure: str) -> Tensor:
        """Return 1 for each medium whose class is the first of `top` (..., M, <= 5), or for top5 one of it; else 0."""
        return (top[..., : 5 if measure == "top5" else 1] == self.target[:, None]).any(dim=-1).double()


def spoken(name: str) -> str:
    """Return the name of a class as a prompt says it.

    >>> spoken("Track_Pants ")
    'Track Pants'
    """
    return " ".join(name.replace("_", " ").split())


def read_prompts(file: Path | None, kind: str = "image") -> tuple[str, ...]:
    """Return the templates in a file, one per line; without a file the default ones for a kind of media.

    Raises RecipeError, naming file and line, for a line that does not contain {} exactly once.

    >>> read_prompts(None, "video")[1]
    'a video of {}.'
    """
    if file is None:
        return tuple(template.replace("photo", "photo" if kind == "image" else "video") for template in PROMPTS)
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise RecipeError(f"prompts: {file} is not UTF-8 text") from None
    except OSError:
        raise RecipeError(f"prompts: {file} {'is a folder' if file.is_dir() else why_missing(file)}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip() and line.count("{}") != 1:
            required = "a template contains {} exactly once, in the place of the class's name"
            raise RecipeError(f"prompts: {file}, line {number}: {quoted(line)}: {required}")
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise RecipeError(f"prompts: {file} is empty; it needs a template per line, such as: a photo of a {{}}.")
    return templates


def find_classes(label: str, templates: Sequence[str], train: Split | None, split: Split) -> Classes:
    """Return the classes of a split's media: the values of the label that media of `train` or of the split have.

    Raises RecipeError if no medium of the split has the label, and DataError naming a medium with several values or an
    empty one, or two values that a prompt says alike.
    """
    media_label(split, label, f"classify, {split.name}")
    train_media = () if train is None else train.media
    class_of = partial(one_value, label=label, needed_by="classification, unlike --label,")
    values = [class_of(medium) for medium in split.media]
    in_training = Counter(name for medium in train_media if (name := class_of(medium)) is not None)
    names = sorted({*in_training, *(value for value in values if value is not None)})
    said: dict[str, str] = {}
    for name in names:
        if not spoken(name):
            medium = next(medium for medium in (*split.media, *train_media) if class_of(medium) == name)
            raise DataError(f"classify: medium {medium.id!r} has the {label} {name!r}, which no prompt can say")
        if (other := said.setdefault(spoken(name), name)) != name:
            raise DataError(
                f"classify: {label} has the values {quoted(other)} and {quoted(name)}, which a prompt says alike; "
                "give both the same name"
            )
    number = {name: at for at, name in enumerate(names)}
    target = torch.tensor([-1 if value is None else number[value] for value in values])
    return Classes(label, tuple(templates), names, [in_training[name] for name in names], target)


def prompt_inputs(model: TwoTower, classes: Classes) -> Rows | Sequence[str]:
    """Return the prompts of all classes as the model takes them: feature rows (K T, W) if its text tower is frozen."""
    tower = model.text_tower
    assert tower is not None
    return text_features(tower, classes.prompts) if is_frozen(tower) else classes.prompts


def class_embeddings(prompts: Tensor, num_templates: int) -> Tensor:
    """Return the unit embeddings (K, D) of classes from those of their prompts (K T, D) (docs/method.md, 6.12).

    >>> class_embeddings(torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, -2.0]]), num_templates=2)
    tensor([[ 0.7071,  0.7071],
            [ 0.0000, -1.0000]])
    """
    return unit(unit(prompts).reshape(-1, num_templates, prompts.shape[1]).mean(dim=1))


def classify(model: TwoTower, media: Tensor, classes: Classes, prompts: Rows | Sequence[str]) -> Tensor:
    """Return the five classes nearest to each embedding (M, D), best first: (M, <= 5) int64, or -1."""
    towards = class_embeddings(embed_text(model, prompts), len(classes.templates))
    norm, towards = largest_norm(media), exact(towards, largest_norm(towards))

    def answers(part: Tensor) -> Tensor:
        return top_classes((exact(media[part], norm) @ towards.T).float(), classes.target[part], _TOP)

    known = (classes.target >= 0).nonzero()[:, 0]
    result = torch.full((len(media), min(_TOP, len(towards))), -1)
    parts = torch.split(known, max(1, _CHUNK_ELEMENTS // len(towards)))
    result[known] = torch.cat(shared(parts, lambda own: map(answers, own)))
    return result


def classification_figures(classes: Classes, top: Tensor) -> dict[str, Any]:
    """Return what metrics.json holds of a classification with the answers `top` (M, <= 5): figures in percent."""
    known = classes.target >= 0
    figures: dict[str, Any] = {
        "label": classes.label,
        "prompts": list(classes.templates),
        "num_classes": len(classes.names),
        "num_media": int(known.sum()),
        "num_unlabeled": int((~known).sum()),
    }
    intervals: dict[str, list[float] | None] = {}
    groups: dict[str, dict[str, Any] | None] = {}
    for measure in CLASS_WORDS:
        hits = classes.hits(top, measure)
        mean, ends = classes.mean(measure, hits), classes.interval(measure, hits)
        interval = None if ends is None else [*ends]
        if measure not in CLASS_GROUPS:
            figures[measure], intervals[measure] = mean, interval
        elif mean is None:
            groups[measure] = None
        else:
            count = len(torch.unique(classes.target[classes.rows(measure)]))
            groups[measure] = {"num_classes": count, "mean_per_class": mean, "interval": interval}
    of_classes = {name: _class_figures(classes, top, number) for number, name in enumerate(classes.names)}
    return {**figures, "intervals": intervals, "groups": groups, "classes": of_classes}


def _class_figures(classes: Classes, top: Tensor, number: int) -> dict[str, Any]:
    answers = top[classes.target == number, 0]
    wrong = Counter(answers[answers != number].tolist())
    return {
        "num_training": classes.num_training[number],
        "num_media": len(answers),
        "accuracy": 100 * float((answers == number).double().mean()) if len(answers) else None,
        "mostly": classes.names[min(wrong, key=lambda other: (-wrong[other], other))] if wrong else None,
    }
