"""Write docs/reference/ from the code, as `make reference` does: commands, keys of a recipe, rules side by side."""

import collections.abc
import importlib
import inspect
import itertools
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin
from unittest.mock import patch

import torch
import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmts.adapters.batch_loss import batch_loss
from mmts.cli import app
from mmts.concepts import ConceptDistribution
from mmts.errors import InputError, MmtsError
from mmts.losses.fused import tiles
from mmts.options import RecipeDefault
from mmts.recipe import components, recipe
from mmts.recipe.components import Family, Option, RunFacts, options_of
from mmts.recipe.section import Section
from mmts.recipe.sections import Sampling

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.leaderboard.columns import read_tables

FOLDER = Path(__file__).parent / "reference"
LEADERBOARD = Path(__file__).parent / "leaderboard"
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

FACTS = {
    "concepts": "sizes of concepts",
    "num_media": "state per medium and caption",
    "width": "networks of width D",
}
LOSSES = ("softmax", "max_margin", "contrast")  # the modules that choose between tiles and whole rows
SAMPLING = ("2309.16671", "1908.03195", "2511.20643")

# The sweeps of docs/leaderboard/, and what a cell calls their data and training.
SWEEPS = {
    "long-tail-fashion": "fashion",
    "rules": "fashion with 22 rules",
    "catalogue": "fashion for 30 epochs",
    "lengths": "fashion for 45 epochs",
    "long-tail-coco": "COCO",
    "long-tail-coco-longer": "COCO for 15 epochs",
    "long-tail-flickr8k": "Flickr8k",
    "long-tail-usda": "fruit",
    "large-batch-usda": "fruit at 2,048",
    "openmoji": "drawings",
    "imbalance-1": "imbalance 1",
    "imbalance-10": "imbalance 10",
    "imbalance-100": "imbalance 100",
    "imbalance-sampling-1": "sampling at imbalance 1",
    "imbalance-sampling-100": "sampling at imbalance 100",
    "from-scratch": "from scratch",
    "parts": "parts of MM-TS",
}


class Place(NamedTuple):
    """Where the figures of a component are: its variant in the sweeps, and rows of docs/reproduction.md."""

    variant: str | None = None  # None if no sweep has tried the component by itself
    published: Sequence[str] = ()
    setting: str | None = None  # of a recipe, if the name alone is not enough


# Every loss and every rule has a line here; `make reference` fails for a new one without.
LOSS_PLACES = {
    "info_nce": Place("fixed"),
    "decoupled_info_nce": Place("decoupled"),
    "multi_positive_info_nce": Place(),
    "reweighted_info_nce": Place("macl"),
    "dual_temperature": Place("dual temperature"),
    "no_temperature": Place(),
    "hard_negative_info_nce": Place("hard negatives"),
    "rince": Place(),
    "cyclip": Place(),
    "temo": Place("temo"),
    "siglip": Place("siglip"),
    "max_margin": Place("max-margin", ["AVION ViT-B, margin .2"]),
    "sms": Place(None, ["SMS loss (arXiv 2406.12256): several models, frames also flipped at test"]),
    "sogclr": Place("sogclr", ["SogCLR"]),
    "isogclr": Place("isogclr", ["iSogCLR"]),
    "fastclip": Place("fastclip"),
    "tempnet": Place("tempnet", ["TempNet"]),
    "nuclr": Place(None, ["NUCLR, batch 512"]),
}
SCHEDULE = "{kind: cosine, low: 0.05, high: 0.1, cycles: 5}"
RULE_PLACES = {
    "fixed": Place("fixed", ["CLIP"]),
    "learned": Place("learned", ["learned temperature"]),
    "scheduled": Place("cosine", setting=f"objective.temperature={{rule: scheduled, schedule: {SCHEDULE}}}"),
    "shifted": Place("mm-ts", ["+ MM-TS", "MM-TS"]),
    "ldam": Place("ldam", setting="objective.margin.rule=ldam"),
    "macl": Place(),
    "dystress": Place("dystress"),
    "temo": Place(),
}
BESIDE = {
    "prior for rare concepts": Place("prior", setting="objective.prior.strength=-0.5"),
    "prior of a sampled softmax": Place("prior log-q", setting="objective.prior.strength=0.5"),
    "weights, late": Place("weights late", setting="objective.weights={beta: 0.999, start: 0.6}"),
    "label smoothing": Place("smoothing", setting="objective.label_smoothing=0.1"),
    "square root of sizes": Place("sqrt sampling", setting="data.sampling.power=0.5"),
    "balanced": Place("balanced", setting="data.sampling.power=0"),
    "balanced, late": Place("balanced late", setting="data.sampling={power: 0, start: 0.6}"),
    "cap of MetaCLIP": Place(setting="data.sampling.cap=100"),
    "repeat factor of LVIS": Place(setting="data.sampling.repeat=0.001"),
    "CABS": Place("cabs", setting="data.sampling.cabs.filter=0.5"),
}
SHIFTS = {
    "linear, without a swing": Place("shift", setting="objective.temperature={rule: shifted, alpha: 0}"),
    "reversed, no swing": Place(
        "shift reversed", setting="objective.temperature={rule: shifted, alpha: 0, low: 0.1, high: 0.05}"
    ),
    "logarithm": Place("log map", setting="objective.temperature={rule: shifted, scale: log}"),
    "rank": Place(setting="objective.temperature={rule: shifted, scale: rank}"),
    "power": Place(setting="objective.temperature={rule: shifted, scale: power, exponent: 0.5}"),
    "density of captions": Place(
        "shift by neighbours", setting="objective.temperature={rule: shifted, alpha: 0, neighbours: 10}"
    ),
    "rows times their temperature": Place(
        "shift times tau",
        setting="objective={scale_by_temperature: true, temperature: {rule: shifted, alpha: 0}}",
    ),
}


class Asked(RunFacts):
    """Facts of a run on four samples; `names` collects those that are asked for."""

    names: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        Asked.names.add(name)
        return super().__getattribute__(name)


def rules_page() -> str:
    parts = [
        "# Rules side by side",
        f"{NOTE}the docstrings of the classes, by trying each on a batch, and from the tables of "
        "[the leaderboard](../leaderboard.md). [What they need](#what-they-need) comes first, then "
        "[how good they are](#how-good-they-are). Their options are among the [recipe keys](recipe.md), their formulas "
        "in [the method](../method.md).",
        "## What they need",
        "*Needs* is what a rule asks for besides pairs. Sizes of concepts come from `concepts` in a recipe, or from "
        "`counts` in a loop of yours. State per medium and caption needs a stable index of each pair, and is saved in "
        "checkpoints.",
        "### Losses",
        "By the key `objective.loss`.",
        "*In tiles from* is the number of pairs in a batch from which similarities are computed in tiles, without a "
        "(B, B) matrix; blank if never. Of two numbers for a GPU, the first is for bfloat16, the second for float32. A "
        "temperature for each pair needs the matrix, too. *Adapters*: all are a plain loop, sentence-transformers, the "
        "Hugging Face Trainer, Lightning and open_clip ([in your own loop](../plug-in.md)); with a star, open_clip "
        "without `--accum-freq`.",
        table(
            ["loss", "needs", "in tiles from", "adapters"],
            [
                [*rule_row(components.OBJECTIVE, name), tiles_from(name), adapters(name)]
                for name in components.OBJECTIVES
            ],
        ),
        "### Temperatures and margins",
        "By the key `objective.temperature.rule`, or of a margin, `objective.margin.rule`. All "
        "adapters take all of them. [`MMTSLoss`](../plug-in.md) is `shifted` and its loss in one object.",
        table(
            ["rule", "needs", "one value per", "refused by"],
            [[*rule_row(components.POLICY, name), *reach(name)] for name in components.POLICIES],
        ),
        "### Beside them",
        "A prior and weights go with `info_nce`, `decoupled_info_nce`, `multi_positive_info_nce` and `cyclip`, a prior "
        "with `sogclr` too; all adapters take them. Sampling goes with everything in `mmts train`.",
        table(
            ["key", "needs"],
            [
                rule_row(components.PRIOR, "prior", "objective.prior"),
                rule_row(components.WEIGHTS, "weights", "objective.weights"),
                [f"`data.sampling`<br>{str(Sampling.__doc__).split(' (')[0]} {papers(SAMPLING)}", FACTS["concepts"]],
            ],
        ),
        "## How good they are",
        "Differences of mean recall to a fixed temperature that was tuned just as much, in points, with their 95 % "
        "intervals, on all queries and on the tail. *Level* are the sweeps in which the interval holds 0; blank is "
        "what nobody has measured. The tail is that of the data's label, or else of the concepts. Each rule was tried "
        "with several settings, which its sweep's page has; nothing was tuned from scratch and in the parts of MM-TS. "
        "Of so many comparisons, expect one in twenty to differ by chance. `mmts train catalogue --data photos/` takes "
        "each line but that of `sms`, which needs graded relevance.",
        "### Each loss, at a fixed temperature",
        figures(places_of(components.OBJECTIVE, LOSS_PLACES)),
        "### Each temperature and margin, with InfoNCE",
        figures(places_of(components.POLICY, RULE_PLACES)),
        "### Sampling, priors and weights, at a fixed temperature",
        figures(BESIDE),
        "### Forms of the shift",
        figures(SHIFTS),
        "## Published figures",
        "Those of [published experiments](../reproduction.md#published-results), which has their conditions, and ours "
        "where we have the data. CC3M: R@1 of text to image / image to text, zero-shot; EPIC-KITCHENS-100: mAP / nDCG; "
        "YouCook2: R@1 / R@5 / R@10 of text to video. We have none of the others.",
        table(
            ["name", "data", "figures"],
            [
                [f"`{name}`", *row]
                for name, place in (LOSS_PLACES | RULE_PLACES).items()
                for row in published(place.published)
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def rule_row(family: Family, name: str, key: str | None = None) -> list[str]:
    """Return a component's name or key with what it is and its papers, and what it needs."""
    component = family.table[name]
    words = re.sub(r" \(docs/method\.md[^)]*\)", "", components.summary(component)).rstrip(".")
    links = papers(re.findall(r"arXiv (\d{4}\.\d{5})", str(component.__doc__)))
    Asked.names.clear()
    made = built(family, name)
    needs = [words for fact, words in FACTS.items() if fact in Asked.names]
    needs += ["similarities of the batch"] if getattr(made, "uses_similarity", False) else []
    needs += ["graded relevance"] if getattr(made, "uses_relevance", False) else []
    return [f"`{key or name}`<br>{words} {links}".rstrip(), ", ".join(needs)]


def papers(numbers: Iterable[str]) -> str:
    """Return links to papers, with their years, by their numbers in arXiv."""
    links = (f"[{each}](https://arxiv.org/abs/{each}), 20{each[:2]}" for each in dict.fromkeys(numbers))
    return "".join(f"({each})" for each in ["; ".join(links)] if each)


def tiles_from(name: str) -> str:
    """Return from how many pairs an objective computes tiles, on a CPU and on a GPU, as its loss chooses its form."""
    objective, index = built(components.OBJECTIVE, name), torch.arange(4)
    if objective.uses_relevance or name == "cyclip":  # whose terms need the matrix
        return ""
    with ExitStack() as stack:
        chosen = [
            stack.enter_context(patch.object(module, "choose_form", wraps=tiles.choose_form))
            for module in (importlib.import_module(f"mmts.losses.{each}") for each in LOSSES)
        ]
        objective(torch.eye(4), torch.eye(4), progress=0.5, index=index, media_index=index)
    calls = [inspect.signature(tiles.choose_form).bind(*call.args, **call.kwargs).arguments
             for each in chosen for call in each.call_args_list]  # fmt: skip
    cpu = first_tiled(calls, torch.float32, "cpu")
    as_on_a_gpu = {"triton_takes": lambda x, y: True, "product_dtype": lambda x, y: x.dtype}
    with patch.multiple(tiles, **as_on_a_gpu):
        half, single = (first_tiled(calls, dtype, "meta") for dtype in (torch.bfloat16, torch.float32))
    gpu = f"{half} or {single} (Triton)" if all(each.get("kernels", True) for each in calls) else half
    return f"CPU {cpu}<br>GPU {gpu}" if cpu else ""


def first_tiled(calls: list[dict[str, Any]], dtype: torch.dtype, device: str) -> str:
    """Return the smallest power of 2 pairs at which all calls choose tiles; "" if there is none."""
    for B in (2**k for k in range(4, 20)):
        batch = torch.empty(1, 4, dtype=dtype, device=device).expand(B, 4)
        sized = {"x": batch, "y": batch, "queries": slice(0, B)}
        if calls and all(tiles.choose_form(**{**call, **sized}) != "plain" for call in calls):
            return f"{B:,}"
    return ""


def adapters(name: str) -> str:
    """Return which adapters take an objective, by what the call that all of them make says."""
    Asked.names.clear()
    objective, index = built(components.OBJECTIVE, name), torch.arange(4)
    remembers = "num_media" in Asked.names
    try:
        batch_loss(objective, torch.eye(4), torch.eye(4), progress=0.5, samples=index, media=index)
    except InputError:
        return "a plain loop"
    return "all*" if remembers else "all"


def reach(name: str) -> list[str]:
    """Return what one value of a policy is for, and the losses that refuse it, by trying all."""
    refused, per = [], ""
    for loss, component in components.OBJECTIVES.items():
        options = [each.name for each in options_of(component) if each.family is components.POLICY]
        if not options or component.uses_relevance:
            continue
        rule = section(components.POLICY, name).model_dump()
        try:
            kind, prepared = components.section_of(components.OBJECTIVE, {"loss": loss, options[0]: rule}, loss)
            objective = components.build(kind.model_validate(prepared), facts())
            index = torch.arange(4)
            output = objective(torch.eye(4), torch.eye(4), progress=0.5, index=index, media_index=index)
            per = per or ("all pairs", "each sample", "each pair")[output.log[options[0]].ndim]
        except MmtsError:
            refused.append(f"`{loss}`")
    return [per, ", ".join(refused)]


def places_of(family: Family, places: Mapping[str, Place]) -> Mapping[str, Place]:
    """Return the places of a family's components with their settings in a recipe. Every component must have one."""
    if wrong := family.table.keys() ^ places.keys():
        raise SystemExit(f"docs/write_reference.py needs one Place for each {family.word}: {', '.join(sorted(wrong))}")
    prefix = "objective.loss=" if family is components.OBJECTIVE else "objective.temperature.rule="
    return {f"`{name}`": place._replace(setting=place.setting or prefix + name) for name, place in places.items()}


def figures(places: Mapping[str, Place]) -> str:
    """Return the table of settings of a recipe and how they differ from the fixed temperature."""
    rows = []
    for name, place in places.items():
        quote = "'" if "{" in str(place.setting) else ""
        rows.append([f"{name}<br>`--set {quote}{place.setting}{quote}`", *in_sweeps(place.variant)])
    return table(["in a recipe", "all queries", "tail"], rows)


def in_sweeps(variant: str | None) -> list[str]:
    """Return how a variant differs from the fixed temperature, on all queries and on the tail, sweep by sweep."""
    if variant == "fixed":
        return ["what the others are compared with", ""]
    lines: dict[str, list[str]] = {"all": [], "tail": []}
    level: dict[str, list[str]] = {"all": [], "tail": []}
    for sweep, words in SWEEPS.items():
        tables = read_tables((LEADERBOARD / f"{sweep}.md").read_text(encoding="utf-8"))
        label = next((each for each in ("article_type", "species") if each in tables), "concept")
        for column, division in ("all", "concept"), ("tail", label):
            cell = tables[division].get(variant or "", {}).get(column, "")
            difference, link = cell.partition(", ")[2], f"[{words}](../leaderboard/{sweep}.md)"
            if "**" in difference:
                lines[column].append(f"{difference} {link}")
            elif difference:
                level[column].append(link)
    if variant and not (lines["all"] or level["all"]):
        raise SystemExit(f"docs/leaderboard/ has no variant {variant!r}")
    if level["all"]:
        lines["all"].append(f"level: {', '.join(level['all'])}")
    if level["tail"]:
        lines["tail"].append("level elsewhere" if lines["tail"] else "level")
    return ["<br>".join(lines["all"]), "<br>".join(lines["tail"])]


def published(labels: Sequence[str]) -> list[list[str]]:
    """Return the published figures in these rows of docs/reproduction.md: the data, and the figures."""
    blocks = FOLDER.with_name("reproduction.md").read_text(encoding="utf-8").split("\n\n")
    lines, known = [], set()
    for above, block in itertools.pairwise(blocks):
        head, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        for label, *cells in rows:
            given = [f"{name.replace('published', '').strip(' ,')} {cell}".strip()
                     for name, cell in zip(head[1:], cells, strict=False) if "published" in name and cell]  # fmt: skip
            if label in labels and given:
                known.add(label)
                note = "".join(f" ({each})" for each in re.split(r"[:,] ", label, maxsplit=1)[1:])
                lines.append([above.split()[0].rstrip(",:"), ", ".join(given) + note])
    if unknown := set(labels) - known:
        raise SystemExit(f"docs/reproduction.md has no published figures of {', '.join(unknown)}")
    return lines


def built(family: Family, name: str) -> Any:
    """Return a component of a run on four samples, with its defaults."""
    return components.build(section(family, name), facts())


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
