"""A recipe: a whole run in one short YAML file, typed; unknown keys are refused.

Its sections are `data`, `concepts`, `model`, `objective`, `train` and `evaluation`; docs/reference/recipe.md lists
their keys.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from mmts.errors import RecipeError, nearest, quoted
from mmts.evaluation.measures import needs_graded
from mmts.files import atomic_write, file_name, why_missing
from mmts.recipe.components import OUTSIDE, ComponentSection, checked_objective, objective_section
from mmts.recipe.model_section import ImageTower, Model, VideoTower
from mmts.recipe.section import Section, validated
from mmts.recipe.sections import Columns, Concepts, Data, Evaluation, Train

_DEEPEST = 50  # sections within sections of a recipe
_MOST_VALUES = 10_000
_NAMES_CLASS = ("kind", "rule", "loss", "tower", "image")  # image: of the frames in a video tower
# Keys of a recipe that choose something, as (top section, key), and the keys beside each that belong to the old choice
# and go with it; None means all of them. `options.image` is the image tower inside a video tower.
_CHOICES: dict[tuple[str, str], tuple[str, ...] | None] = {
    ("concepts", "source"): None,
    ("evaluation", "classify"): ("prompts",),
    ("model", "start"): None,
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


class Published(Section):
    """The published experiment that a recipe reproduces: its source, its hardware, and its results in percent."""

    source: str
    """Where it was published."""
    hardware: str = "not stated"
    """The hardware it ran on."""
    results: dict[str, float] = Field({})
    """Published results in percent, by name."""


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
    objective: Annotated[SerializeAsAny[ComponentSection], BeforeValidator(objective_section)] = objective_section({})
    train: Train
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _can_be_done(self) -> "Recipe":
        if needs_graded(self.train.best) and self.data.relevance != "graded":
            raise ValueError(f"train.best is {self.train.best!r}, which needs data.relevance graded")
        checked_objective(self.objective, self.model.width)
        if not self.model.trains and self.model.start is None:  # a run that is started from may have heads that train
            self.check_something_trains(False)
        return self

    def check_something_trains(self, model_trains: bool) -> None:
        """Raise RecipeError if there are steps to take, but neither model nor objective has anything to train."""
        objective = checked_objective(self.objective, self.model.width)
        objective_trains = any(parameter.requires_grad for parameter in objective.parameters())
        if not (model_trains or objective_trains) and (self.train.epochs or self.train.steps):
            kind = "linear" if self.model.start is None else "residual"
            raise RecipeError(
                "nothing trains: both towers are frozen, and so are the heads (or model.head.kind is none), and the "
                f"objective has no parameters. Set model.{self.model.kind}.train or model.text.train to all, or "
                f"model.head.kind to {kind}; train.epochs=0 evaluates the model as it is"
            )

    @property
    def folder_name(self) -> str:
        """The name as one part of a path, whatever characters it has."""
        return file_name(self.name)

    def with_data(self, path: Path | None, columns: Columns | None = None) -> "Recipe":
        """Return the same recipe for other data or columns; None keeps the recipe's own."""
        other = {"path": path or self.data.path, "columns": columns or self.data.columns}
        return self.model_copy(update={"data": self.data.model_copy(update=other)})


def shipped_recipes() -> dict[str, str]:
    """Return the text of every recipe that comes with mmts, by name."""
    files = {file.name: file for file in resources.files("mmts.recipe").iterdir() if file.name.endswith(".yaml")}
    return {name.removesuffix(".yaml"): files[name].read_text(encoding="utf-8") for name in sorted(files)}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a shipped recipe by name, or a YAML file, and apply overrides: `a.b=value`, or values by dotted key.

    Raises RecipeError, naming the key and the nearest known one, for anything that is wrong.

    >>> load_recipe("catalogue", ["train.seed=3"]).train.seed
    3
    """
    text, name, source = _read(str(name_or_path))
    content = parse_mapping(text, source, "the sections data, concepts, model, objective, train, evaluation")
    content.setdefault("name", name)
    content = with_whole_names(content, Path(source).parent)
    return parse_recipe(with_whole_names(override(content, overrides), Path()), source)


def parse_recipe(content: Mapping[str, Any], source: str = "recipe") -> Recipe:
    """Check a recipe given as nested mappings, including every component in it. Raises RecipeError naming the key."""
    beside = ("versions", "own_objects")  # recorded by a run in its recipe.yaml, and not part of the recipe
    content = {key: value for key, value in content.items() if key not in beside}
    check_extent(content, source)
    try:
        return validated(Recipe, content, source)
    except RecipeError as error:
        raise RecipeError(str(error) if str(error).startswith(f"{source}: ") else f"{source}: {error}") from None


def parse_mapping(text: str | bytes, source: str, holds: str) -> dict[str, Any]:
    """Read YAML that must be a mapping with what `holds` says. Raises RecipeError naming `source`."""
    try:
        content = load_yaml(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError:
        raise RecipeError(f"{source} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{source} must hold a mapping with {holds}")
    check_extent(content, source)
    return content


def parse_columns(text: str) -> Columns:
    """Read the value of --columns. Raises RecipeError if it has another form.

    >>> parse_columns("media=Bild,caption=Text, deutsch")
    Columns(media='Bild', caption='Text, deutsch')
    """
    pairs = [part.partition("=") for part in re.split(r",\s*(?=\w+\s*=)", text)]
    if not all(equals and name.strip() for _, equals, name in pairs):
        raise RecipeError(f"--columns takes media=NAME,caption=NAME, or one of the two, not {quoted(text)}")
    names = {role.strip(): name.strip() for role, _, name in pairs}
    if len(names) < len(pairs):
        raise RecipeError(f"--columns names {' or '.join(names)} twice: {quoted(text)}")
    return validated(Columns, names, "--columns")


def override(content: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with the values of `overrides`: texts `a.b=value`, read as YAML, or values by dotted key.

    A new choice (a rule, a loss, a tower, ...: `_CHOICES`) drops the keys beside it that belong to the old choice.
    Therefore sections are set before the keys in them, and choices before the keys beside them, in whatever order they
    are given.

    >>> override({"concepts": {"source": "label", "label": "noun"}}, ["concepts.source=captions"])
    {'concepts': {'source': 'captions'}}
    """
    result: dict[str, Any] = copy.deepcopy(dict(content))
    settings = overrides.items() if isinstance(overrides, Mapping) else map(parse_setting, overrides)
    pairs = [(key.split("."), copy.deepcopy(value)) for key, value in settings]
    for path, value in sorted(pairs, key=lambda pair: (len(pair[0]), not _is_choice(pair[0]))):
        section = result
        for depth, key in enumerate(path[:-1], start=1):
            inner = section.get(key)
            if inner is None or (not isinstance(inner, dict) and _is_choice(path) and depth == len(path) - 1):
                inner = {}  # a plain number stands for a rule or a schedule, which this choice replaces
                _choose(section, path[:depth], inner)
            if not isinstance(inner, dict):
                raise RecipeError(f"--set {'.'.join(path)}: {'.'.join(path[:depth])} is a value, not a section")
            section = inner
        _choose(section, path, value)
    return result


def parse_setting(text: str) -> tuple[str, Any]:
    """Split KEY=VALUE, as --set takes it, into the dotted key and the value, read as YAML."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or "" in key.split("."):
        raise RecipeError(f"--set takes KEY=VALUE such as train.epochs=10, not {quoted(text)}")
    try:
        content = load_yaml(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {quoted(text)}: the value is not valid YAML") from None
    check_extent(content, f"--set {key}")
    return key, content


def _is_choice(path: Sequence[str]) -> bool:
    return (path[0], path[-1]) in _CHOICES


def _choose(section: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Put a value into its section, and drop the keys beside it that belong to another choice."""
    key = path[-1]
    if _is_choice(path) and value is not None and section.get(key, _default(path)) != value:
        for other in _CHOICES[path[0], key] or tuple(section):
            section.pop(other, None)
    section[key] = value


def _default(path: Sequence[str]) -> Any:
    """Return the value of a key that a recipe leaves out; None for a key without a default."""
    both = Model.model_construct(image=ImageTower(), video=VideoTower())
    value: Any = Recipe.model_construct(model=both, train=Train(epochs=1))
    for key in path:
        value = getattr(value, key, None)
    return None if isinstance(value, Section) else value


def save_recipe(recipe: Recipe, path: Path, versions: Mapping[str, str], own_objects: Mapping[str, str] = {}) -> None:
    """Write the resolved recipe, with every key, the versions that ran it, and the classes of the caller's objects."""
    content = {**recipe.model_dump(mode="json"), "versions": dict(versions)}
    content |= {"own_objects": dict(own_objects)} if own_objects else {}
    with atomic_write(path, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)


def with_whole_names(content: Any, folder: Path, key: str = "") -> Any:
    """Return a recipe's content, at `key`, with absolute paths for the files of code that it names in a folder."""
    if isinstance(content, Mapping):
        return {inner: with_whole_names(value, folder, inner) for inner, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_whole_names(item, folder) for item in content]
    matched = OUTSIDE.fullmatch(content) if isinstance(content, str) else None
    if matched is None or not matched[1].endswith(".py") or key not in _NAMES_CLASS:
        return content
    return f"{(folder / Path(matched[1]).expanduser()).absolute()}:{matched[2]}"


def check_extent(content: Any, source: str) -> None:
    """Raise RecipeError if a recipe's content is nested too deeply or too large, as aliases in YAML can make it."""
    left, seen = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > _DEEPEST:
            raise RecipeError(f"{source}: the recipe is nested too deeply")
        if isinstance(value, Mapping | list | tuple):
            if seen + len(left) + len(value) > _MOST_VALUES:
                raise RecipeError(f"{source}: the recipe holds more values than the {_MOST_VALUES:,} that are allowed")
            left += [(inner, depth + 1) for inner in (value.values() if isinstance(value, Mapping) else value)]


def load_yaml(text: str) -> Any:
    """Read YAML with plain values and unique keys. Raises yaml.YAMLError, whatever is wrong.

    >>> load_yaml("day: 2024-13-01")
    Traceback (most recent call last):
    yaml.error.YAMLError: it holds an impossible value: month must be in 1..12
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # impossible dates, numbers of thousands of digits, lists as keys
        raise yaml.YAMLError(f"it holds an impossible value: {error}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(problem=f"the key {key!r} stands twice: {key_node.start_mark}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(name_or_path: str) -> tuple[str | bytes, str, str]:
    """Return a recipe's text, its name, and what messages call it."""
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path], name_or_path, f"recipe {name_or_path}"
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"there is no shipped recipe {name_or_path!r}; {nearest(name_or_path, shipped)}")
    if not path.is_file():
        raise RecipeError(f"recipe file {path} {why_missing(path)}")
    return path.read_bytes(), path.stem, str(path)
