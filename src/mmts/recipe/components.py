"""Components of a recipe (schedules, policies, objectives, towers), which describe themselves by their constructors.

A recipe names one by the key `kind`, `rule`, `loss` or `tower`: by its name in the table of its package (SCHEDULES,
POLICIES, OBJECTIVES, IMAGE_TOWERS, ...), or a class outside mmts as `module:Class` or `file.py:Class`. Its options are
the parameters of its constructor, or of its classmethod `from_recipe(run, ...)` if recipes describe it by other numbers
than Python does. Parameters named like a field of `RunFacts` (of towers: in GIVEN_BY_RUN) are not options: the run
supplies them.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.errors import InputError, RecipeError, nearest, quoted
from mmts.files import content_hash
from mmts.models import IMAGE_TOWERS, TEXT_TOWERS, VIDEO_TOWERS, ImageTower, TextTower, Tower, VideoTower
from mmts.models.base import GIVEN_BY_RUN
from mmts.models.image_towers import HuggingFaceImage
from mmts.models.text_towers import HuggingFaceText
from mmts.objectives import OBJECTIVES, Objective, Prior, RowWeights
from mmts.options import RecipeDefault
from mmts.policies import POLICIES, Policy
from mmts.recipe.section import Section, explain, is_number
from mmts.schedules import SCHEDULES, Schedule

Trust = Callable[[str], bool]
"""Whether code outside mmts, by its name in a recipe, may be run."""
MAY_RUN: ContextVar[Trust] = ContextVar("may_run", default=lambda name: True)
"""What applies to the recipe being read: its user may name any code, the recipe of a run directory what is trusted."""
OUTSIDE = re.compile(r"(.+\.py|[A-Za-z_][\w.]*):([A-Za-z_]\w*)")
"""How a recipe names a class outside mmts: `file.py:Class` or `module:Class`."""
_ANY_WIDTH = 256  # stands for the width of a pair that is not open yet
_MEANING = re.compile(r"^(\w+(?:, \w+)*): ((?:.+)(?:\n {4}.+)*)", re.MULTILINE)
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class RunFacts:
    """The facts about a run that a component may ask for."""

    concepts: ConceptDistribution  # of the training samples
    num_media: int  # M, media of the training split
    num_captions: int  # N, its captions, one sample each
    width: int  # D, width of the embeddings
    neighbour_counts: Callable[[int], Tensor]  # k -> (N,) int64, see `mmts.concepts.neighbour_counts`
    pair_temperature: float | None = None  # of the pretrained pair that the model starts from: 1 / its logit scale
    pair_bias: float | None = None  # of such a SigLIP: its logit bias
    pair_is_unopened: bool = False  # whether there is such a pair, but a recipe is only being checked
    label_concepts: Callable[[str], ConceptDistribution] | None = None  # label of the media -> concepts by it

    def concepts_by(self, name: str) -> ConceptDistribution:
        """Return the concepts of the training samples: the run's own for `concept`, else those by a label."""
        if name == "concept":
            return self.concepts
        assert self.label_concepts is not None
        return self.label_concepts(name)


class Family(NamedTuple):
    """One kind of component."""

    base: Any  # the class that all of them extend
    word: str
    key: str | None  # the key of a recipe that names one; None if the family is one class
    table: Mapping[str, type[Any]]  # those of the package, by name
    number_is: str | None = None  # the component that a plain number stands for
    other: type[Any] | None = None  # the class of any other name


SCHEDULE = Family(Schedule, "schedule", "kind", SCHEDULES, "constant")
POLICY = Family(Policy, "policy", "rule", POLICIES, "fixed")
OBJECTIVE = Family(Objective, "objective", "loss", OBJECTIVES)
IMAGE_TOWER = Family(ImageTower, "image tower", "tower", IMAGE_TOWERS, other=HuggingFaceImage)
VIDEO_TOWER = Family(VideoTower, "video tower", "tower", VIDEO_TOWERS)
TEXT_TOWER = Family(TextTower, "text tower", "tower", TEXT_TOWERS, other=HuggingFaceText)
PRIOR = Family(Prior, "prior", None, {"prior": Prior})
WEIGHTS = Family(RowWeights, "weights", None, {"weights": RowWeights})
FAMILIES = (SCHEDULE, POLICY, OBJECTIVE, IMAGE_TOWER, VIDEO_TOWER, TEXT_TOWER, PRIOR, WEIGHTS)


class ComponentSection(Section):
    """A component as a recipe describes it; `section_of` makes a subclass for each."""

    # A class made here has no source, and pydantic would look for one in the files of all modules and callers.
    model_config = ConfigDict(use_attribute_docstrings=False)

    component: ClassVar[type[Any]]
    family: ClassVar[Family]

    def __eq__(self, other: object) -> bool:
        # Each recipe that is read has its own section classes, so classes are not compared.
        if not isinstance(other, ComponentSection):
            return False
        return self.component is other.component and self.__dict__ == other.__dict__

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (FAMILIES.index(self.family), self.model_dump())  # other processes import the class again


class Option(NamedTuple):
    """An option of a component: a plain value, another component, or a list of components."""

    name: str
    hint: Any
    default: Any  # inspect.Parameter.empty if it is required
    family: Family | None
    is_list: bool
    meaning: str


def options_of(component: type[Any]) -> list[Option]:
    """Return the options of a component, in the order of its constructor.

    >>> [(option.name, option.default) for option in options_of(POLICIES["learned"])]
    [('start', 0.07), ('low', 0.01), ('high', 1.0)]
    """
    from_recipe = getattr(component, "from_recipe", None)
    hints = get_type_hints(from_recipe or component.__init__, include_extras=True)
    parameters = list(inspect.signature(from_recipe or component).parameters.values())[1 if from_recipe else 0 :]
    meanings = {
        name: " ".join(meaning.split())
        for documented in reversed(component.__mro__)  # what a class does not say, its base does
        for names, meaning in _MEANING.findall(inspect.cleandoc(documented.__doc__ or ""))  # as Python 3.13 keeps it
        for name in names.split(", ")
    }
    facts = GIVEN_BY_RUN if issubclass(component, Tower) else [fact.name for fact in fields(RunFacts)]
    options = []
    for parameter in parameters:
        name, hint = parameter.name, hints.get(parameter.name, Any)
        if _is_annotated_optional(inner := (*get_args(hint), None)[0]):
            hint = inner  # Python 3.10 adds a second `| None` around it if the default is None
        if name not in facts and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            options.append(Option(name, hint, parameter.default, *_family_in(hint), meanings.get(name, "")))
    return options


def summary(component: type[Any]) -> str:
    """Return the first line of a component's docstring."""
    return (inspect.getdoc(component) or component.__name__).splitlines()[0]


def described(file: str | None = None) -> dict[str, dict[str, str]]:
    """Return the first docstring line of every component that a recipe can name, by family; or of those in a file.

    Raises RecipeError if the file cannot be imported.

    >>> described()["rules"]["learned"]
    "One learned value for all samples: CLIP's temperature (docs/method.md, 3.4)."
    """
    titles = {"losses": OBJECTIVE, "rules": POLICY, "schedules": SCHEDULE}
    titles |= {f"{family.word}s": family for family in (IMAGE_TOWER, VIDEO_TOWER, TEXT_TOWER)}
    if file is None:
        tables = {title: dict(family.table) for title, family in titles.items()}
    else:
        classes = {title: _components_in(_module(file, "--policies"), family) for title, family in titles.items()}
        tables = {title: {f"{file}:{item.__name__}": item for item in items} for title, items in classes.items()}
    return {title: {name: summary(item) for name, item in table.items()} for title, table in tables.items() if table}


# --- from a recipe's content to sections ------------------------------------------------------------------------------


def objective_section(content: Any) -> ComponentSection:
    """Return a recipe's `objective` as a section of the class it names. Raises RecipeError naming the key."""
    if isinstance(content, ComponentSection):
        return content
    if isinstance(content, Mapping) and OBJECTIVE.key not in content:
        content = {OBJECTIVE.key: "info_nce", **content}
    section, prepared = section_of(OBJECTIVE, content, "objective")
    return validated_at("objective", section, prepared, content)  # type: ignore[no-any-return]


def validated_at(place: str, kind: Any, prepared: Any, content: Any) -> Any:
    """Return a recipe's value as a type; RecipeError names the place in `content`, the value as the user wrote it."""
    try:
        return TypeAdapter(kind).validate_python(prepared)
    except ValidationError as error:
        raise RecipeError(explain(error, content, place)) from None


def section_of(
    family: Family, content: Any, place: str, published: RecipeDefault | None = None
) -> tuple[type[ComponentSection], dict[str, Any]]:
    """Return the section that `content` must fit, and the content with its numbers written out as components."""
    if family.number_is is not None and is_number(content):
        content = {family.key: family.number_is, "value": content}
    if not isinstance(content, Mapping):
        number = "a number or " if family.number_is else ""
        value = "empty" if content is None else quoted(content)
        key = family.key or options_of(family.base)[0].name
        raise RecipeError(f"{place} is {value}; it must be {number}a section {{{key}: ...}}")
    name, prepared = content.get(family.key), dict(content)
    component = component_named(family, name, place, content)
    defaults = {} if published is None else published.options.get(str(name), {})
    definitions: dict[str, Any] = {} if family.key is None else {family.key: (Literal[name], name)}
    try:
        for option in options_of(component):
            kind, default = option.hint, defaults.get(option.name, option.default)
            if option.family is not None:
                kind, default = _inner(option, default, prepared, f"{place}.{option.name}")
            definitions[option.name] = (kind, ... if default is _REQUIRED else default)
        section = create_model(f"{component.__name__}Section", __base__=ComponentSection, **definitions)
    except RecipeError:
        raise
    except Exception as error:  # a user's class may have any signature
        why = f"cannot be options of a recipe ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise RecipeError(f"{place}: the parameters of {component.__name__} {why}") from None
    section.component, section.family = component, family
    return section, prepared


def _inner(option: Option, default: Any, content: dict[str, Any], place: str) -> tuple[Any, Any]:
    """Return the type and the default of an option that is a component, with its numbers written out in `content`."""
    assert option.family is not None
    published = next((item for item in get_args(option.hint) if isinstance(item, RecipeDefault)), None)
    if published is not None:
        default = published.content
    value = content.get(option.name, default)
    if value is _REQUIRED:
        return Any, _REQUIRED  # pydantic reports that it is missing
    if value is None and option.default is None:
        return None, None
    if option.is_list:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise RecipeError(f"{place} is {quoted(value)}; it must be a list")
        parts = [section_of(option.family, item, f"{place}[{i}]") for i, item in enumerate(value)]
        content[option.name] = [prepared for _, prepared in parts]
        return tuple[tuple(section for section, _ in parts)], ...  # type: ignore[misc]
    section, prepared = section_of(option.family, as_content(value), place, published)
    if option.name not in content:
        return section, section.model_validate(prepared)
    content[option.name] = prepared
    return section, ...


def as_content(value: Any) -> Any:
    """Return a schedule, which may be the default of an option, as a recipe would write it."""
    if isinstance(value, tuple):
        return [as_content(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    name = next(name for name, component in SCHEDULES.items() if type(value) is component)
    return {"kind": name, **{field.name: as_content(getattr(value, field.name)) for field in fields(value)}}


def _is_annotated_optional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and type(None) in get_args(get_args(hint)[0])


def _family_in(hint: Any) -> tuple[Family | None, bool]:
    """Return the family of components that an option's type names, and whether it is a list of them."""
    if get_origin(hint) is Annotated:
        return _family_in(get_args(hint)[0])
    for family in FAMILIES:
        if hint is family.base:
            return family, False
        if family.base in get_args(hint):
            return family, get_origin(hint) not in (types.UnionType, Union)
    return None, False


def _unpickled(family: int, content: dict[str, Any]) -> ComponentSection:
    """Return a section that was pickled; whoever pickled it trusted the code that it names."""
    section, prepared = section_of(FAMILIES[family], content, FAMILIES[family].word)
    return section.model_validate(prepared)


# --- classes outside mmts ---------------------------------------------------------------------------------------------


def outside_names(objective: ComponentSection, towers: Sequence[str]) -> frozenset[str]:
    """Return the classes outside mmts among an objective's components and towers, as recipes name them."""
    return frozenset(name for name in [*_names(objective), *towers] if ":" in name)


def _names(value: Any) -> Iterator[str]:
    """Yield the names of a component and of all components inside it."""
    if isinstance(value, ComponentSection):
        if value.family.key is not None:
            yield getattr(value, value.family.key)
        value = tuple(dict(value).values())
    if isinstance(value, tuple):
        for inner in value:
            yield from _names(inner)


def component_named(family: Family, name: Any, place: str, content: Mapping[Any, Any]) -> type[Any]:
    """Return the class that a recipe names. Raises RecipeError with the nearest name if no class has it."""
    if family.key is None:
        return family.base  # type: ignore[no-any-return]
    if isinstance(name, str) and name in family.table:
        return family.table[name]
    if isinstance(name, str) and ":" in name:
        return _outside_class(family, name, f"{place}.{family.key}")
    if name is not None:
        near = nearest(str(name), family.table)
        is_folder = "/" in str(name) or os.path.isdir(str(name))  # False for what no path can be
        if family.other is not None and (is_folder or not near.startswith("did you mean")):
            return family.other
        raise RecipeError(f"{place}.{family.key} is {quoted(name)}; {near}")
    for key in content:
        if (hint := nearest(str(key), [family.key])).startswith("did"):
            raise RecipeError(f"{place}: unknown key {key!r}; {hint}")
    raise RecipeError(f"{place}.{family.key} is missing; it must be one of {', '.join(family.table)}")


def _outside_class(family: Family, name: str, place: str) -> type[Any]:
    """Import a class outside mmts, named as `file.py:Class` or `module:Class`; RecipeError says why it cannot be."""
    if not MAY_RUN.get()(name):
        remedy = "which runs only if you trust it: add --trust-code if you do"
        raise RecipeError(f"{place} names code outside mmts, {name}, {remedy}")
    matched = OUTSIDE.fullmatch(name)
    if matched is None:
        raise RecipeError(f"{place} is {quoted(name)}; a class outside mmts is written file.py:Class or module:Class")
    where, class_name = matched.groups()
    module = _module(where, place)
    component = getattr(module, class_name, None)
    if component is None:
        names = [known.__name__ for known in _components_in(module, family)]
        raise RecipeError(f"{place}: {where} has no class {class_name!r}; {nearest(class_name, names)}")
    if not _fits(family, component):
        required = f"it must be a subclass of mmts's {family.base.__name__}"
        raise RecipeError(f"{place}: {name} is not a valid {family.word}; {required}")
    return component  # type: ignore[no-any-return]


def _fits(family: Family, value: Any) -> bool:
    """Return whether a value is a class of a family; a schedule is any class whose objects can be called."""
    if not inspect.isclass(value) or value is family.base:
        return False
    is_schedule = "__call__" in dir(value) and not issubclass(value, torch.nn.Module)
    return is_schedule if family is SCHEDULE else issubclass(value, family.base)


def _components_in(module: Any, family: Family) -> list[type[Any]]:
    """Return the components of a family that a module defines itself."""
    return [value for value in vars(module).values() if _fits(family, value) and value.__module__ == module.__name__]


def _module(where: str, place: str) -> Any:
    """Import a file or a module; raises RecipeError, naming the recipe's key, if that fails."""
    try:
        if where.endswith(".py"):
            return _module_of_file(Path(where).expanduser().absolute())
        return importlib.import_module(where)
    except Exception as error:  # a user's code may raise anything
        raise RecipeError(f"{place}: {where} cannot be imported: {type(error).__name__}: {error}") from None


@cache
def _module_of_file(path: Path) -> Any:
    """Import a file once per process, under a unique name, so that its classes can be pickled."""
    name = f"{path.stem}_{content_hash(str(path))[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# --- from sections to objects -----------------------------------------------------------------------------------------


def build(section: ComponentSection, run: RunFacts, place: str = "objective") -> Any:
    """Make the component that a section describes, for a run. Raises RecipeError, naming the place, if that fails."""
    component, name = section.component, section.component.__name__
    options = {key: _built(value, run, f"{place}.{key}") for key, value in section if key != section.family.key}
    try:
        if hasattr(component, "from_recipe"):
            result = component.from_recipe(run, **options)
        else:
            parameters = inspect.signature(component).parameters
            facts = {fact.name: getattr(run, fact.name) for fact in fields(run) if fact.name in parameters}
            result = component(**facts, **options)
    except InputError as error:
        raise RecipeError(f"{place}: {error}") from None
    except Exception as error:
        if component.__module__.startswith("mmts."):
            raise
        raise RecipeError(f"{place}: {name} cannot be made: {type(error).__name__}: {error}") from None
    if section.family is SCHEDULE and not (hasattr(result, "minimum") and hasattr(result, "maximum")):
        raise RecipeError(f"{place}: {name} needs `minimum` and `maximum`, its bounds over [0, 1]")
    return result


def _built(value: Any, run: RunFacts, place: str) -> Any:
    if isinstance(value, tuple):
        return tuple(_built(item, run, f"{place}[{i}]") for i, item in enumerate(value))
    return build(value, run, place) if isinstance(value, ComponentSection) else value


def checked_objective(
    section: ComponentSection,
    width: int | None,
    pair: tuple[float | None, float | None] | None = None,
    label_concepts: Callable[[str], ConceptDistribution] | None = None,
) -> Objective:
    """Make a recipe's objective for a run of two samples, to see before training what it and its loss refuse.

    width: None if the model starts from a pretrained pair, which brings its own. pair: the temperature and the bias of
    that pair; None if it is not open. label_concepts: of the training samples, once they are read.
    """
    sizes = torch.tensor([1, 2])
    concepts = ConceptDistribution.from_counts(sizes)
    unopened = width is None and pair is None
    facts = concepts, 2, 2, width or _ANY_WIDTH, lambda k: sizes, *(pair or (None, None)), unopened
    run = RunFacts(*facts, label_concepts=label_concepts or (lambda label: concepts))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        objective: Objective = build(section, run)
        if not outside_names(section, ()):
            x, index, relevance = torch.eye(2, run.width), torch.arange(2), torch.eye(2)
            try:
                for progress in (0.0, 0.5, 1.0):
                    objective.eval()(x, x, progress=progress, index=index, relevance=relevance)
            except InputError as error:
                raise RecipeError(f"objective: a batch of two pairs fails: {error}") from None
    return objective
