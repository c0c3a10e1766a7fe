"""A recipe: the whole of a run in one short YAML file, typed, with unknown keys refused.

A recipe has five sections, `data`, `concepts`, `model`, `objective` and `train`; what stands below a key goes into
docs/reference/recipe.md.
"""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from mmts.errors import RecipeError, nearest, plain, quoted
from mmts.evaluation.measures import Measure, needs_graded
from mmts.files import atomic_write, file_name, why_missing
from mmts.recipe.components import (
    ComponentSection,
    Trust,
    check_extent,
    checked_objective,
    objective_section,
    with_whole_names,
)
from mmts.recipe.messages import explain
from mmts.recipe.model_section import ImageTower, Model, VideoTower
from mmts.recipe.section import Section
from mmts.recipe.yaml_text import load_yaml

# The choices of a recipe, by top section and key: which keys beside one belong to the old choice, so that --set of a
# new one drops them; None for all. `options.image` is the image tower inside a video tower.
_CHOICES: dict[tuple[str, str], tuple[str, ...] | None] = {
    ("concepts", "source"): None,
    ("model", "image"): ("video", "image_options"),
    ("model", "video"): ("image",),
    ("model", "tower"): ("options",),
    ("model", "sampling"): ("stride",),
    ("model", "kind"): None,
    ("objective", "loss"): None,
    ("objective", "rule"): None,
    ("objective", "kind"): None,
    ("train", "epochs"): ("steps",),
    ("train", "steps"): ("epochs",),
}
MAX_SEED = 2**32 - 1  # what numpy and scikit-learn take
DatasetName = Literal["flickr30k", "coco", "cc3m", "ek100", "youcook2"]
DATASETS = get_args(DatasetName)
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")

SectionType = TypeVar("SectionType", bound=Section)


# --- data, concepts, model, training ---------------------------------------------------------------------------------


class Augment(Section):
    """Random changes to training images and clips; only for a tower that trains."""

    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Share of the picture's area that a random crop keeps, from and to."""
    flip: bool = True
    """Mirror left and right half of the time; switch it off where text or direction matters."""
    color: float = Field(0.2, ge=0, le=1)
    """How far brightness, contrast and saturation may move."""

    @model_validator(mode="after")
    def _crops_something(self) -> "Augment":
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale needs 0 < low <= high <= 1, not [{plain(low)}, {plain(high)}]")
        return self


class SplitNames(Section):
    """Which of the data's splits are train, val and test, where they have other names, such as train2014."""

    # A split may be called 0 or 2014, which YAML reads as a number.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    train: str | None = None
    """The data's own name of the split to train on."""
    val: str | None = None
    """Of the split on which the best checkpoint is chosen."""
    test: str | None = None
    """Of the split to judge on."""


class Columns(Section):
    """Which columns of a table hold what, where their names are not usual ones."""

    media: str | None = None
    """The column of paths."""
    caption: str | None = None
    """The column of captions."""


class Data(Section):
    """What is read, and what counts as right. `dataset` is the public data set that the recipe was made for."""

    path: Path | None = None
    """What `--data` gives."""
    dataset: DatasetName | None = None
    """The public data set that the recipe was made for."""
    splits: SplitNames = SplitNames()
    """Which of the data's splits are train, val and test, where they have other names: `{train: train2014}`."""
    columns: Columns = Columns()
    """Columns of a table whose names are not usual ones."""
    relevance: Literal["text", "own", "graded"] = "text"
    """What counts as right when judged. `text`: every medium that carries the same caption string; `own`: only the
    caption's own medium, as the published Flickr30K, COCO and YouCook2 protocols have it; `graded`: by the classes
    of verbs and nouns, as EPIC-KITCHENS-100 is judged."""
    captions: Literal["own", "same-concept", "relevant"] = "own"
    """The caption drawn for a medium in training. `own`: one of its own; `relevant`: any of graded relevance over
    `min_relevance`; `same-concept`: such a caption whose medium has the same concept."""
    min_relevance: float = Field(0.1, ge=0, lt=1)
    """Graded relevance that a drawn caption must exceed."""
    max_unreadable: float = Field(0.01, ge=0, le=1)
    """Share of media that may be unreadable before the run refuses; each is named in `unreadable.txt`."""
    max_media: int | None = Field(None, ge=2)
    """Use at most so many media of each split, evenly spread."""
    shuffle_buffer: int = Field(20_000, ge=1)
    """Samples by which the order of media in shards is shuffled beyond the order of the shards."""
    augment: Augment | None = Augment()
    """Random changes to training images and clips, only for a tower that trains; `null` is off."""
    workers: int = Field(0, ge=0)
    """Processes that decode images and clips, only for a tower that trains."""


class Concepts(Section):
    """Where a sample's concept comes from: clusters of the training captions, a label of its medium, or a file."""

    source: Literal["captions", "label", "file"] = "captions"
    """`captions`: cluster the training captions; `label`: take a label of the media; `file`: concepts found
    beforehand."""
    label: str | None = None
    """Which label."""
    file: Path | None = None
    """What `ConceptDistribution.save` wrote, of the training captions in their order."""
    num_concepts: int | Literal["auto"] = "auto"
    """Clusters; `auto` is min(200, distinct captions // 10), at least 2."""
    encoder: str = "minilm"
    """`minilm` (packaged), `tfidf` (no weights), or a sentence-transformers, CLIP or SigLIP name or folder."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Of the clustering."""

    @model_validator(mode="after")
    def _source_is_named(self) -> "Concepts":
        if (self.source == "label") != (self.label is not None):
            raise ValueError("`label` names the label to use when `source` is label, and only then")
        if (self.source == "file") != (self.file is not None):
            raise ValueError("`file` names the concepts to take when `source` is file, and only then")
        if isinstance(self.num_concepts, int) and self.num_concepts < 2:
            raise ValueError(f"num_concepts must be at least 2 or auto, not {self.num_concepts}")
        return self


class Train(Section):
    """How long and how. Exactly one of `epochs` and `steps`."""

    epochs: int | None = Field(None, ge=0)
    """Length in passes through the training data; exactly one of `epochs` and `steps`. 0 judges the model untrained."""
    steps: int | None = Field(None, ge=0)
    """Length in steps of the optimizer."""
    batch_size: int = Field(256, ge=2)
    """Pairs, of all processes together; a smaller training split is one batch."""
    learning_rate: float = Field(1e-3, gt=0)
    """Rate at the start, after the warm-up; a cosine leads to `final_learning_rate`."""
    final_learning_rate: float = Field(0.0, ge=0)
    """Rate at the end."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of training in which the rate rises from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Of matrices; biases, norms and temperatures never decay."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the towers' arithmetic; losses are always computed in float32 at least."""
    micro_batch: int | None = Field(None, ge=1)
    """Pairs that go through the towers of a process at a time: the whole batch's gradients and negatives in a piece's
    memory, for one forward pass more. Refused where a trained tower has batch norm."""
    gradient_checkpointing: bool = False
    """Trained towers keep only what enters each of their blocks and compute the rest again on the way back: less
    memory, about a third more time; adds to `micro_batch`."""
    evaluate_every: int = Field(1, ge=1)
    """Epochs between looks at val."""
    best: Measure = "R@1"
    """The measure on val, mean of both directions, by which the best checkpoint is chosen: `R@1`, `R@5`, `R@10`,
    `mean recall` (of these three), and for graded relevance `mAP`, `nDCG`, `binary_mAP`; `head`, `mid` or `tail`
    before it counts that group's queries alone, as in `tail R@5`."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints, beside the one at the end of every epoch: for long epochs."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is no number stops the run and is explained; `skip` leaves the step out and counts it."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of log.jsonl."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Of weights, order, captions, augmentation, dropout."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Any that accelerate knows, `wandb` and `mlflow` too; `[]` for none."""
    project: str = Field("mmts", min_length=1)
    """What trackers file the run under."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        for tracker in self.trackers:
            if tracker not in TRACKERS:
                raise ValueError(f"trackers: unknown tracker {tracker!r}; {nearest(tracker, TRACKERS)}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} is larger than learning_rate {self.learning_rate}"
            )
        return self


class Published(Section):
    """What a recipe reproduces: where it was published, on which hardware, and its results in percent."""

    source: str
    """Where it was published."""
    hardware: str = "not stated"
    """What it was run on."""
    results: dict[str, float] = Field({})
    """In percent, by name."""


def _objective(value: Any, info: ValidationInfo) -> ComponentSection:
    return objective_section(value, (lambda name: True) if info.context is None else info.context["trust"])


ObjectiveSection = Annotated[SerializeAsAny[ComponentSection], BeforeValidator(_objective)]


class Recipe(Section):
    """The whole of a run."""

    name: str = "recipe"
    """Names the run's folder."""
    description: str = ""
    """One line for `mmts recipes`."""
    published: Published | None = None
    """What the recipe reproduces; it changes nothing in a run."""
    data: Data = Data()
    concepts: Concepts = Concepts()
    model: Model = Model()
    objective: ObjectiveSection = objective_section({}, lambda name: False)
    train: Train

    @model_validator(mode="after")
    def _can_be_done(self) -> "Recipe":
        if needs_graded(self.train.best) and self.data.relevance != "graded":
            raise ValueError(f"train.best is {self.train.best!r}, which needs data.relevance graded")
        checked_objective(self.objective, self.model.width)
        if self.model.media.frozen and self.model.text.frozen and self.model.head.kind == "none":
            self.check_something_trains(False)
        return self

    def check_something_trains(self, model_trains: bool) -> None:
        """Raise ValueError where there are steps to take, and no parameters of the model or the objective to train."""
        objective = checked_objective(self.objective, self.model.width)
        objective_trains = any(each.requires_grad for each in objective.parameters())
        if not (model_trains or objective_trains) and (self.train.epochs or self.train.steps):
            raise ValueError(
                "nothing trains: both towers are frozen, model.head.kind is none, and the objective learns nothing by "
                f"itself. Set model.{self.model.kind}.frozen or model.text.frozen to false, or model.head.kind to "
                "linear; train.epochs=0 judges the model as it is"
            )

    @property
    def folder_name(self) -> str:
        """The name as one part of a path, whatever it holds."""
        return file_name(self.name)

    def with_data(self, path: Path | None, columns: Columns | None = None) -> "Recipe":
        """Return the same recipe for other data, and other columns of it; None keeps the recipe's own."""
        other = {"path": path or self.data.path, "columns": columns or self.data.columns}
        return self.model_copy(update={"data": self.data.model_copy(update=other)})

    def with_whole_paths(self) -> "Recipe":
        """Return the same recipe, meaning the same files whatever folder it is used in."""
        model, concepts = self.model, self.concepts
        if model.pretrained is not None:
            model = model.model_copy(update={"pretrained": Path(os.path.expanduser(model.pretrained)).absolute()})
        if concepts.file is not None:
            concepts = concepts.model_copy(update={"file": Path(os.path.expanduser(concepts.file)).absolute()})
        return self.model_copy(update={"model": model, "concepts": concepts})


# --- reading and writing ---------------------------------------------------------------------------------------------


def shipped_recipes() -> dict[str, str]:
    """Return the text of every recipe that comes with mmts, by name."""
    folder = resources.files("mmts.recipe")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in files}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or a YAML file, and apply `a.b=value` overrides.

    Raises RecipeError, naming the key and the nearest known one, for anything that is wrong.

    >>> load_recipe("catalogue", ["train.seed=3"]).train.seed
    3
    """
    text, name, source = _read(str(name_or_path))
    content = parse_mapping(text, source, "the sections data, concepts, model, objective, train")
    content.setdefault("name", name)
    if source == str(name_or_path):
        content = with_whole_names(content, Path(source).parent)
    return parse_recipe(with_whole_names(override(content, overrides), Path()), source)


def parse_recipe(content: Mapping[str, Any], source: str = "recipe", trust: Trust = lambda name: True) -> Recipe:
    """Check a recipe given as nested mappings, every component in it too.

    Code outside mmts that it names is run where `trust` says so. Raises RecipeError naming the key.
    """
    content = dict(content)
    content.pop("versions", None)  # what a run's own recipe.yaml records beside the recipe
    try:
        check_extent(content)
        recipe = validated(Recipe, content, source, {"trust": trust})
    except RecipeError as error:
        raise RecipeError(str(error) if str(error).startswith(f"{source}: ") else f"{source}: {error}") from None
    return recipe


def parse_concepts(content: Mapping[str, Any]) -> Concepts:
    """Check a recipe's `concepts` section given by itself."""
    return validated(Concepts, content, "concepts")


def parse_mapping(text: str, source: str, holds: str) -> dict[str, Any]:
    """Read YAML that must be a mapping with what `holds` says; raises RecipeError, naming `source`, for anything else.

    >>> parse_mapping("{a: 1, b: 2}", "my.yaml", "letters")
    {'a': 1, 'b': 2}
    """
    try:
        content = load_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {_one_line(str(error))}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{source} must hold a mapping with {holds}")
    return content


def validated(
    section: type[SectionType], content: Mapping[str, Any], source: str, context: Mapping[str, Any] | None = None
) -> SectionType:
    """Check nested mappings against a section; raises RecipeError naming `source` and the key."""
    try:
        return section.model_validate(content, context=context)
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, content)}") from None


def parse_columns(text: str | None) -> Columns | None:
    """Read what --columns gives; None where it is not given. Raises RecipeError for anything else than its form.

    >>> parse_columns("media=Bild,caption=Text, deutsch")
    Columns(media='Bild', caption='Text, deutsch')
    """
    if text is None:
        return None
    pairs = [part.partition("=") for part in re.split(r",\s*(?=\w+\s*=)", text)]
    if not all(equals and name.strip() for _, equals, name in pairs):
        raise RecipeError(f"--columns takes media=NAME,caption=NAME, or one of the two, not {quoted(text)}")
    names = {role.strip(): name.strip() for role, _, name in pairs}
    if len(names) < len(pairs):
        raise RecipeError(f"--columns names {' or '.join(names)} twice: {quoted(text)}")
    return validated(Columns, names, "--columns")


def override(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `content` with every `a.b=value` put in its place; values are read as YAML.

    Setting a choice (a rule, a loss, a tower, ...: `_CHOICES`) to something new drops the keys beside it that belong to
    the old choice. Sections therefore come before what is in them, and choices before the keys beside them, in whatever
    order they are given.

    >>> override({"concepts": {"source": "label", "label": "noun"}}, ["concepts.source=captions"])
    {'concepts': {'source': 'captions'}}
    """
    result: dict[str, Any] = copy.deepcopy(dict(content))
    pairs = [(key.split("."), value) for key, value in map(parse_setting, overrides)]
    for path, value in sorted(pairs, key=lambda pair: (len(pair[0]), not _is_choice(pair[0]))):
        section = result
        for depth, key in enumerate(path[:-1], start=1):
            inner = section.get(key)
            if inner is None or (not isinstance(inner, dict) and _is_choice(path) and depth == len(path) - 1):
                inner = {}  # a plain number is short for a rule or a schedule, which this choice replaces
                _choose(section, path[:depth], inner)
            if not isinstance(inner, dict):
                raise RecipeError(f"--set {'.'.join(path)}: {'.'.join(path[:depth])} is a value, not a section")
            section = inner
        _choose(section, path, value)
    return result


def parse_setting(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE into the dotted key and the value, read as YAML; raises RecipeError for anything else.

    >>> parse_setting("train.epochs=10")
    ('train.epochs', 10)
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "" in key.split("."):
        raise RecipeError(f"--set takes KEY=VALUE such as train.epochs=10, not {quoted(text)}")
    try:
        return key, load_yaml(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {quoted(text)}: the value is not valid YAML") from None


def _is_choice(path: Sequence[str]) -> bool:
    return (path[0], path[-1]) in _CHOICES


def _choose(section: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Put a value into its section, without the keys beside it that belong to another choice."""
    key = path[-1]
    if _is_choice(path) and value is not None and section.get(key, _default(path)) != value:
        for other in _CHOICES[path[0], key] or tuple(section):
            section.pop(other, None)
    section[key] = value


def _default(path: Sequence[str]) -> Any:
    """Return what a key is where a recipe does not say it; None for one that has no default."""
    both = Model.model_construct(image=ImageTower(), video=VideoTower())
    found: Any = Recipe.model_construct(model=both, train=Train(epochs=1))
    for key in path:
        found = getattr(found, key, None)
    return None if isinstance(found, Section) else found


def save_recipe(recipe: Recipe, path: Path, versions: Mapping[str, str]) -> None:
    """Write the resolved recipe, every key in it, with the versions that ran it."""
    content = {**recipe.model_dump(mode="json"), "versions": dict(versions)}
    with atomic_write(path, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)


def _read(name_or_path: str) -> tuple[str, str, str]:
    """Return (text, name, how to call it in a message)."""
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path], name_or_path, f"recipe {name_or_path}"
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path.stem, str(path)
        except UnicodeDecodeError:
            raise RecipeError(f"{path} is not UTF-8 text") from None
    if path.suffix in (".yaml", ".yml"):
        raise RecipeError(f"recipe file {path} {why_missing(path)}")
    raise RecipeError(f"there is no shipped recipe {name_or_path!r}; {nearest(name_or_path, shipped)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
