"""Write docs/reference/ from the code, as `make reference` does: every command's options, every key of a recipe."""

import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmts.cli import app
from mmts.training import objective_sections as objective
from mmts.training import recipe
from mmts.training.section import Section

FOLDER = Path(__file__).parent / "reference"
NOTE = "Written by `make reference` from the code, which says the same in "
# What a union of sections is called here, by the key that chooses among them; each has a heading of that name.
CHOICES = {"loss": "Losses", "rule": "Rules", "kind": "Schedules"}
WORDS = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text", Path: "path", dict: "mapping"}
SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def pages() -> dict[str, str]:
    """Return the text of every page of the reference, by file name."""
    return {"commands.md": commands_page(), "recipe.md": recipe_page()}


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
        f"{NOTE}`src/mmts/training/recipe.py` and `objective_sections.py`. How recipes work is told in "
        "[Recipes](../recipes.md); `mmts recipes NAME` prints a shipped one. A key without a default must be given. "
        "`--set a.b=VALUE` sets key `b` of section `a`.",
    ]
    for name in ("data", "concepts", "model", "train", "published"):
        section = section_in(recipe.Recipe.model_fields[name].annotation)
        parts += section_parts(name, section, level=2)
    parts += ["## objective", "One of the [losses](#losses), chosen by `loss`."]
    for tag, sections in choices().items():
        parts.append(f"## {CHOICES[tag]}")
        for section in sections:
            title = f"`{section.model_fields[tag].default}`"
            if "Margin" in section.__name__ and tag == "rule":
                title += " for a margin" if section is not objective.SMSMarginRule else " for SMS"
            parts += section_parts(title, section, level=3, without=tag)
    return "\n\n".join(parts) + "\n"


def choices() -> dict[str, list[type[Section]]]:
    """Return all sections that are chosen by each key, in their order in the code."""
    unions = {
        "loss": objective.ObjectiveSection,
        "rule": objective.Rule,
        "kind": objective.ScheduleSection,
    }
    return {tag: sections_in(union) for tag, union in unions.items()}


def section_parts(title: str, section: type[Section], level: int, without: str = "") -> Iterator[str]:
    """Yield a section's heading, what it is, the table of its keys, and the sections within it."""
    yield f"{'#' * level} {title}"
    yield " ".join(str(section.__doc__).split())
    section.model_rebuild()  # schedules name each other
    fields = {name: field for name, field in section.model_fields.items() if name != without}
    if fields:
        rows = [[f"`{name}`", kind(each), shown_default(each), meaning(each)] for name, each in fields.items()]
        yield table(["key", "value", "default", "meaning"], rows)
    for name, field in fields.items():
        inner = sections_in(field.annotation)
        if len(inner) == 1:
            yield from section_parts(f"{title}.{name}", inner[0], level + 1)


def kind(field: FieldInfo) -> str:
    """Return what a key takes, in words."""
    sections = sections_in(field.annotation)
    if len(sections) == 1:
        return "section" + (" or `null`" if type(None) in get_args(field.annotation) else "")
    if not sections:
        words, null, rest = in_words(field.annotation).partition(" or `null`")
        return words + bounds(field) + null + rest
    tag = "rule" if "rule" in sections[0].model_fields else "kind"
    link = f"[{CHOICES[tag].lower().rstrip('s')}](#{CHOICES[tag].lower()})"
    if get_origin(field.annotation) is tuple:
        return f"list of {link}s"
    if tag == "kind":
        return f"number or {link}" if isinstance(field.default, Section) else link
    return f"number or {link}: " + ", ".join(f"`{each.model_fields[tag].default}`" for each in sections)


def in_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(each) for each in arguments)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        many = "list of" if arguments[-1] is Ellipsis else {2: "two"}[len(arguments)]
        return f"{many} {in_words(arguments[0])}s".replace("texts", "names")
    if annotation is type(None):
        return "`null`"
    return WORDS[origin or annotation]


def meaning(field: FieldInfo) -> str:
    return " ".join(str(field.description).split())


def bounds(field: FieldInfo) -> str:
    """Return the range of a number: from 1, above 0, or an interval."""
    found = {name: f"{getattr(each, name):,}" for each in field.metadata for name in SYMBOLS if hasattr(each, name)}
    if len(found) == 2:
        (low, start), (high, end) = sorted(found.items())  # ge or gt, then le or lt
        return f" in {'[' if low == 'ge' else '('}{start}, {end}{']' if high == 'le' else ')'}"
    return "".join(f" {SYMBOLS[name]} {number}" for name, number in found.items())


def shown_default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""
    if isinstance(value, objective.ConstantSchedule):
        value = value.value
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
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
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


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
