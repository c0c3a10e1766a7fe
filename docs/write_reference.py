"""Write docs/reference/ from the code, as `make reference` does: commands, keys of a recipe, rules side by side."""

import collections.abc
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmts.cli import app
from mmts.options import RecipeDefault
from mmts.recipe import components, recipe
from mmts.recipe.components import Option, options_of
from mmts.recipe.section import Section

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


# --- rules -----------------------------------------------------------------------------------------------------------

FACTS = {
    "concepts": "sizes of concepts",
    "num_media": "state per medium and caption",
    "width": "networks as wide as the embeddings",
}
LOSS_FORMS = (softmax, max_margin, contrast)  # the modules that choose between tiles and rows


class Asked(RunFacts):
    """Facts about a run of four samples, which note what is asked of them."""

    def __getattribute__(self, name: str) -> Any:
        if name in FACTS:
            asked.add(name)
        return super().__getattribute__(name)


asked: set[str] = set()


def rules_page() -> str:
    """Every loss and rule in one table each, so that a reader can compare what they need."""
    head = ["name", "what it is", "paper", "needs", "in tiles from"]
    parts = [
        "# Rules side by side",
        f"{NOTE}the classes' docstrings, and by trying each on a batch. "
        "The [leaderboard](../leaderboard.md) says how good they are, and the [recipe keys](recipe.md) list their options.",
        "*Needs*: what a rule asks of the data besides pairs. Sizes of concepts come from `concepts` in a recipe, or from "
        "`counts` in your own loop; state per medium and caption needs a stable `index` of each pair, and is saved in "
        "checkpoints. *In tiles from*: pairs per batch on a CPU from which the similarities are computed in tiles, without a (B, B) "
        "matrix; blank: always as a matrix. All [adapters](../plug-in.md) take all of them, but those that need graded "
        "relevance, which only the data of `mmts train` have.",
    ]
    for title, family, setting in (("Losses", components.OBJECTIVE, "loss"), ("Rules", components.POLICY, "temperature.rule")):
        parts += [f"## {title}", f"`--set objective.{setting}=NAME`"]
        rows = [[f"[`{name}`](recipe.md#{name.replace('_', '-')})", *rule_row(name, each, family)] for name, each in family.table.items()]
        parts.append(table(head if family is components.OBJECTIVE else head[:-1], rows))
    parts += [
        "## Beside them",
        "These take any of the temperatures above: `objective.prior`, `objective.weights` and `objective.margin` of the InfoNCE losses, "
        "and `data.sampling`, which takes any loss.",
    ]
    rows = [[f"`objective.{name}`", *rule_row(name, each, None)] for name, each in (("prior", Prior), ("weights", RowWeights))]
    rows.append(["`data.sampling`", " ".join(str(Sampling.__doc__).split()), "[2309.16671](https://arxiv.org/abs/2309.16671) (2023), "
                 "[1908.03195](https://arxiv.org/abs/1908.03195) (2019), [2511.20643](https://arxiv.org/abs/2511.20643) (2025)", FACTS["concepts"]])
    return "\n\n".join([*parts, table(head[:-1], rows)]) + "\n"


def rule_row(name: str, component: type[Any], family: Any) -> list[str]:
    """Return what a component is, its papers, what it needs, and for a loss from how many pairs it computes tiles."""
    text = inspect.getdoc(component) or ""
    papers = dict.fromkeys(re.findall(r"arXiv (\d{4}\.\d{5})", text))
    links = ", ".join(f"[{each}](https://arxiv.org/abs/{each}) (20{each[:2]})" for each in papers)
    what = re.sub(r" \(docs/method\.md[^)]*\)", "", components.summary(component))
    asked.clear()
    with patch_forms() as forms:
        built = made(component) if family is None else components.build(section(family, name), run())
        needs = [words for fact, words in FACTS.items() if fact in asked]
        if getattr(built, "uses_similarity", False):
            needs.append("similarities of the batch")
        if getattr(built, "uses_relevance", False):
            needs.append("graded relevance")
        elif isinstance(built, components.Objective):
            index = torch.arange(4)
            built(*torch.randn(2, 4, 8), progress=0.5, index=index, media_index=index)
    row = [what, links, ", ".join(needs)]
    return [*row, *("" if not TILES_FROM.get(form) else f"{TILES_FROM[form]:,}" for form in forms[:1] or [""])] if family is components.OBJECTIVE else row


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
