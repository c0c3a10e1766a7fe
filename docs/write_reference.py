"""Write docs/reference/ from the code, as `make reference` does: commands, keys of a recipe, rules side by side."""

import collections.abc
import importlib
import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin
from unittest.mock import patch

import torch
import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmts.cli import app
from mmts.concepts import ConceptDistribution
from mmts.losses.fused.tiles import TILES_FROM, choose_form
from mmts.options import RecipeDefault
from mmts.recipe import components, recipe
from mmts.recipe.components import Family, Option, RunFacts, options_of
from mmts.recipe.section import Section
from mmts.recipe.sections import Sampling

FOLDER = Path(__file__).parent / "reference"
NOTE = "Written by `make reference` from the code, which says the same in "
TITLES = {
    "Losses": components.OBJECTIVE,
    "Rules": components.POLICY,
    "Schedules": components.SCHEDULE,
    "Image towers": components.IMAGE_TOWER,
    "Video towers": components.VIDEO_TOWER,
    "Text towers": components.TEXT_TOWER,
    "Priors": components.PRIOR,
    "Weights": components.WEIGHTS,
}
WORDS = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Path: "path"}
WORDS |= {dict: "mapping", collections.abc.Mapping: "mapping"}
SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def pages() -> dict[str, str]:
    """Return the text of every page of the reference, by file name."""
    return {"commands.md": commands_page(), "recipe.md": recipe_page(), "rules.md": rules_page()}


# --- commands --------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    parts = [
        "# Commands",
        f"{NOTE}`mmts COMMAND --help`.",
        "`mmts --version` prints the version. Wrong input is one line ",
    ]
    parts[-1] += "and exit code 2; Ctrl-C is exit code 130."
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        parts += [f"## mmts {name}", command.help, f"```\n{usage(name, command.params)}\n```"]
        if command.params:
            parts.append(table(["", "default", ""], map(parameter_row, command.params)))
    return "\n\n".join(parts) + "\n"


def usage(name: str, parameters: list[Any]) -> str:
    words = ["mmts", name]
    for each in filter(is_argument, parameters):
        word = each.name.upper() + ("..." if each.nargs != 1 else "")
        words.append(word if each.required else f"[{word}]")
    return " ".join([*words, *(["[OPTIONS]"] if not all(map(is_argument, parameters)) else [])])


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def parameter_row(parameter: Any) -> list[str]:
    if is_argument(parameter):
        name = parameter.name.upper()
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.opts[0].lstrip('-').upper()}"
        name = parameter.opts[0] + value
    default = parameter.default
    shown = "required" if parameter.required else "" if default is None or default is False else f"`{default}`"
    return [f"`{name}`", shown, parameter.help]


# --- recipe ----------------------------------------------------------------------------------------------------------


def recipe_page() -> str:
    parts = [
        "# Recipe keys",
        f"{NOTE}`src/mmts/recipe/`, and for `objective` and the `options` of towers in "
        "the classes of `mmts.objectives`, `mmts.policies`, `mmts.schedules` and `mmts.models`. "
        "[Recipes](../recipes.md) tells how recipes work; `mmts recipes NAME` prints a shipped one. A key without a "
        "default must be given. `--set a.b=VALUE` sets key `b` of section `a`.",
    ]
    for name in ("data", "concepts", "model", "train", "evaluation", "published"):
        section = section_in(recipe.Recipe.model_fields[name].annotation)
        parts += section_parts(name, section, level=2)
    parts += [
        "## objective",
        "One of the [losses](#losses), chosen by `loss`, or a class of yours ([adding](../adding.md)).",
    ]
    for title, family in TITLES.items():
        parts.append(f"## {title}")
        for name, component in family.table.items():
            parts += component_parts(f"`{name}`", component)
        if family.other is not None:
            parts += component_parts(f"Any other {family.word}", family.other)
    return "\n\n".join(parts) + "\n"


def component_parts(name: str, component: type[Any]) -> Iterator[str]:
    """Yield a component's heading, what it is, and the table of its options."""
    yield f"### {name}"
    yield components.summary(component)
    rows = [option_row(each) for each in options_of(component)]
    if rows:
        yield table(["key", "value", "default", "meaning"], rows)


def option_row(option: Option) -> list[str]:
    meaning = option.meaning[:1].upper() + option.meaning[1:]
    return [f"`{option.name}`", option_kind(option), option_default(option), meaning]


def option_kind(option: Option) -> str:
    """Return what an option takes, in words."""
    if option.family is None:
        words, null, rest = in_words(option.hint).partition(" or `null`")
        return words + bounds(option.hint) + null + rest
    title = next(title for title, family in TITLES.items() if family is option.family)
    link = f"[{title.lower().rstrip('s')}](#{title.lower()})"
    null = " or `null`" if option.default is None else ""
    number = "number or " if option.family.number_is else ""
    return f"list of {link}s" if option.is_list else f"{number}{link}{null}"


def option_default(option: Option) -> str:
    stands = [each for each in get_args(option.hint) if isinstance(each, RecipeDefault)]
    default = stands[0].content if stands else components.as_content(option.default)
    if default is inspect.Parameter.empty:
        return ""
    rule = (default or {}).get("rule") if stands else None
    others = {name: each for name, each in (stands[0].options if stands else {}).items() if name != rule}
    return "; ".join(
        [f"`{as_yaml(default)}`", *(f"with rule `{name}`: `{as_yaml(each)}`" for name, each in others.items())]
    )


def section_parts(title: str, section: type[Section], level: int) -> Iterator[str]:
    """Yield a section's heading, what it is, the table of its keys, and the sections within it."""
    yield f"{'#' * level} {title}"
    yield " ".join(str(section.__doc__).split())
    fields = section.model_fields
    if fields:
        rows = [[f"`{name}`", kind(each), shown_default(each), meaning(each)] for name, each in fields.items()]
        yield table(["key", "value", "default", "meaning"], rows)
    for name, field in fields.items():
        inner = sections_in(field.annotation)
        if len(inner) == 1:
            yield from section_parts(f"{title}.{name}", inner[0], level + 1)


def kind(field: FieldInfo) -> str:
    """Return what a key takes, in words."""
    if sections_in(field.annotation):
        return "section" + (" or `null`" if type(None) in get_args(field.annotation) else "")
    words, null, rest = in_words(field.annotation).partition(" or `null`")
    return words + limits(field.metadata) + null + rest


def in_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(each) for each in arguments if get_origin(each) is not type)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is collections.abc.Sequence:
        return f"list of {in_words(arguments[0])}s"
    if origin is tuple:
        many = "list of" if arguments[-1] is Ellipsis else {2: "two"}[len(arguments)]
        return f"{many} {in_words(arguments[0])}s".replace("texts", "names")
    if annotation is type(None):
        return "`null`"
    return WORDS[origin or annotation]


def meaning(field: FieldInfo) -> str:
    return " ".join(str(field.description).split())


def bounds(hint: Any) -> str:
    """Return the range of an option that is a number."""
    if get_origin(hint) is Annotated:
        return limits(get_args(hint)[1:])
    return "".join(bounds(each) for each in get_args(hint))


def limits(metadata: Iterable[Any]) -> str:
    """Return the range of a number: from 1, above 0, or an interval."""
    found = {name: f"{getattr(each, name):,}" for each in metadata for name in SYMBOLS if hasattr(each, name)}
    if len(found) == 2:
        (low, start), (high, end) = sorted(found.items())  # ge or gt, then le or lt
        return f" in {'[' if low == 'ge' else '('}{start}, {end}{']' if high == 'le' else ')'}"
    return "".join(f" {SYMBOLS[name]} {number}" for name, number in found.items())


def shown_default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Section):
        given = {
            name: getattr(value, name) for name in type(value).model_fields if name in ("rule", *value.model_fields_set)
        }
        return f"`{{{', '.join(f'{name}: {as_yaml(each)}' for name, each in given.items())}}}`" if given else ""
    return f"`{as_yaml(value)}`"


def as_yaml(value: Any) -> str:
    """Return a value as a recipe has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {as_yaml(each)}' for name, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value or '""') if isinstance(value, str) else str(value)


def section_in(annotation: Any) -> type[Section]:
    return sections_in(annotation)[0]


def sections_in(annotation: Any) -> list[type[Section]]:
    """Return the sections that an annotation names, each once."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    found = [section for each in get_args(annotation) for section in sections_in(each)]
    return list(dict.fromkeys(found))


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(each.replace("|", "\\|") for each in line) + " |" for line in lines)


# --- rules side by side ----------------------------------------------------------------------------------------------

FACTS = {"concepts": "sizes of concepts", "num_media": "state per medium and caption", "width": "networks of width D"}
LOSSES = ("softmax", "max_margin", "contrast")  # the modules that choose between tiles and whole rows
SAMPLING = ("2309.16671", "1908.03195", "2511.20643")


class Asked(RunFacts):
    """Facts of a run on four samples; `names` collects those that are asked for."""

    names: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Asked.names.add(name)
        return super().__getattribute__(name)


def rules_page() -> str:
    parts = [
        "# Rules side by side",
        f"{NOTE}the docstrings of the classes, and by trying each on a batch. Their options are among the "
        "[recipe keys](recipe.md), their formulas in [the method](../method.md), and how good they are is in "
        "[the leaderboard](../leaderboard.md).",
        "*Needs* is what a rule asks for besides pairs. Sizes of concepts come from `concepts` in a recipe, or from "
        "`counts` in a loop of yours. State per medium and caption needs a stable index of each pair, and is saved in "
        "checkpoints. *Tiles from* is the number of pairs in a batch from which, on a CPU, similarities are computed "
        "in tiles, without a (B, B) matrix; blank if never. A temperature for each pair needs the matrix, too. All "
        "[adapters](../plug-in.md) take all rules but those on graded relevance, which only `mmts train` has.",
        "## Losses",
        "`--set objective.loss=NAME`",
        table(
            ["name", "what it is", "papers", "needs", "tiles from"],
            [[f"`{name}`", *rule_row(components.OBJECTIVE, name), tiles_from(name)] for name in components.OBJECTIVES],
        ),
        "## Rules",
        "`--set objective.temperature.rule=NAME`, or of a margin, `objective.margin.rule`",
        table(
            ["name", "what it is", "papers", "needs"],
            [[f"`{name}`", *rule_row(components.POLICY, name)] for name in components.POLICIES],
        ),
        "## Beside them",
        "A prior and weights go with `info_nce`, `decoupled_info_nce`, `multi_positive_info_nce` and `cyclip`, a prior "
        "with `sogclr` too, and sampling with everything.",
        table(
            ["key", "what it is", "papers", "needs"],
            [
                ["`objective.prior`", *rule_row(components.PRIOR, "prior")],
                ["`objective.weights`", *rule_row(components.WEIGHTS, "weights")],
                ["`data.sampling`", str(Sampling.__doc__).split(" (")[0], papers(SAMPLING), FACTS["concepts"]],
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def rule_row(family: Family, name: str) -> list[str]:
    """Return what a component is, its papers, and what it needs."""
    component = family.table[name]
    words = re.sub(r" \(docs/method\.md[^)]*\)", "", components.summary(component)).rstrip(".")
    Asked.names.clear()
    built = components.build(section(family, name), facts())
    needs = [words for fact, words in FACTS.items() if fact in Asked.names]
    needs += ["similarities of the batch"] if getattr(built, "uses_similarity", False) else []
    needs += ["graded relevance"] if getattr(built, "uses_relevance", False) else []
    return [words, papers(re.findall(r"arXiv (\d{4}\.\d{5})", str(component.__doc__))), ", ".join(needs)]


def papers(numbers: Iterable[str]) -> str:
    """Return links to papers, with their years, by their numbers in arXiv."""
    return ", ".join(f"[{each}](https://arxiv.org/abs/{each}) (20{each[:2]})" for each in dict.fromkeys(numbers))


def tiles_from(name: str) -> str:
    """Return from how many pairs an objective computes tiles, by what its loss says when it chooses a form."""
    objective, index = components.build(section(components.OBJECTIVE, name), facts()), torch.arange(4)
    if objective.uses_relevance or name == "cyclip":  # whose terms need the matrix
        return ""
    with ExitStack() as stack:
        chosen = [
            stack.enter_context(patch.object(module, "choose_form", wraps=choose_form))
            for module in (importlib.import_module(f"mmts.losses.{each}") for each in LOSSES)
        ]
        objective(torch.eye(4), torch.eye(4), progress=0.5, index=index, media_index=index)
    calls = [call.args for each in chosen for call in each.call_args_list]  # call[5]: what keeps rows whole
    tiled = [TILES_FROM[call[0]] for call in calls if call[0] in TILES_FROM and not any(call[5].values())]
    return f"{tiled[0]:,}" if tiled and len(tiled) == len(calls) else ""


def section(family: Family, name: str) -> Any:
    content = {} if family.key is None else {family.key: name, **({"schedule": 0.1} if name == "scheduled" else {})}
    kind, prepared = components.section_of(family, content, name)
    return kind.model_validate(prepared)


def facts() -> Asked:
    concepts = ConceptDistribution.from_labels(list("aaab"))
    return Asked(concepts, 4, 4, 4, neighbour_counts=lambda k: torch.ones(4, dtype=torch.int64))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
