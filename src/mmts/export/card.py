"""The model card of an export: README.md, with the front matter that the Hugging Face hub reads."""

import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from mmts import __version__
from mmts.concepts import ConceptDistribution
from mmts.console import console
from mmts.errors import RunError, counted
from mmts.evaluation.measures import arrow, directions_of, shown_measures
from mmts.evaluation.results import PARTS
from mmts.files import atomic_write, read_kept
from mmts.models import TwoTower
from mmts.models.open_clip import PREFIX
from mmts.recipe.run_directory import RunDirectory
from mmts.report.wording import clean, listed

UNKNOWN = "unknown"  # a license, as the hub calls it
RECIPE = "mmts-recipe.yaml"  # not recipe.yaml, which makes a folder a run directory
# Names on the hub: the library that loads a format, and what it is loaded for.
_LOADED_BY = {
    "sentence-transformers": ("sentence-transformers", "sentence-similarity"),
    "huggingface": ("transformers", "zero-shot-image-classification"),
    "open_clip": ("open_clip", "zero-shot-image-classification"),
    "onnx": ("onnx", "feature-extraction"),
}
_ON_HUB = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}  # towers that come from packages
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_RESIZED = {
    "stretch": "stretched to one",
    "crop": "cut to their central square, which is resized",
    "pad": "fitted into one whole, on white",
}
_USES = {
    "sentence-transformers": (
        "from sentence_transformers import SentenceTransformer\n\n"
        "model = SentenceTransformer(FOLDER{trust})\n"
        'print(model.similarity(model.encode(["a red shoe"]), model.encode(["a blue hat"])))'
    ),
    "huggingface": (
        "from transformers import AutoModel, AutoProcessor\n\n"
        "model, processor = AutoModel.from_pretrained(FOLDER), AutoProcessor.from_pretrained(FOLDER)"
    ),
    "open_clip": (
        "import open_clip\n\n"
        'place = "local-dir:" + FOLDER  # on the hub: "hf-hub:NAME"\n'
        "model, _, preprocess = open_clip.create_model_and_transforms(place)\n"
        "tokenizer = open_clip.get_tokenizer(place)"
    ),
    "onnx": (
        "import onnxruntime\n\n"
        'text = onnxruntime.InferenceSession(FOLDER + "/text.onnx")  # its inputs are in export.json'
    ),
}


def check_license(name: str) -> None:
    """Raise RunError unless this may be an identifier of a license on the hub."""
    if not _LICENSE.fullmatch(name):
        raise RunError(f"--license is an identifier of the hub, such as apache-2.0, cc-by-4.0 or other, not {name!r}")


def escaped(value: object, longest: int = 200) -> str:
    r"""Return foreign text as one line of markdown that shows it as it is: no markup, links, HTML or table cells.

    >>> print(escaped("[a](b) <i>\n# c | d"))
    \[a\]\(b\) \<i\> \# c \| d
    """
    # A full stop makes a link only of www.
    return re.sub(r"([\\`*_{}\[\]()<>#|!~&:@$]|(?<=www)\.)", r"\\\1", clean(value, longest), flags=re.IGNORECASE)


def write_card(
    folder: Path, directory: RunDirectory, model: TwoTower, to: str, checkpoint: str, content: dict[str, Any],
    license: str,
) -> None:  # fmt: skip
    """Write README.md and the run's recipe into an export; neither names a folder of this machine.

    content: of export.json. license: an identifier of the hub. Raises DataError for damaged concepts.
    """
    recipe, versions = directory.recipe(), directory.versions()
    metrics = _metrics(directory, checkpoint)
    if not metrics:
        first = shlex.join(["mmts", "evaluate", str(directory.path), "--checkpoint", checkpoint])
        what = f"has no scores of a finished run at the {checkpoint} checkpoint"
        console.print(f"note: {directory.metrics_file} {what}, so the model card has none; before, run `{first}`")
    figures = _figures(metrics) if metrics else {}
    kind, needs_mmts = recipe.model.kind, bool(content.get("needs_mmts"))
    data = _short(recipe.data.path) if recipe.data.path is not None else "data"
    title = clean(directory.path.resolve().name)
    library, task = _LOADED_BY[to]
    hub_data = re.match(r"hf:/+datasets/([\w.-]+/[\w.-]+)", str(recipe.data.path))
    towers = [tower for tower in (model.media_tower, model.text_tower) if tower is not None]
    sources = [(tower.name, getattr(tower, "source", None)) for tower in towers]
    bases = [_ON_HUB.get(name) or (None if not source or source.local else source.place) for name, source in sources]
    front = ModelCardData(
        license=license,
        library_name=library,
        pipeline_tag=task,
        base_model=list(dict.fromkeys(clean(base) for base in bases if base)) or None,
        datasets=[hub_data[1]] if hub_data else None,
        tags=["mmts", f"{kind}-text-retrieval", "long-tail"],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="retrieval", dataset_type=re.sub(r"[^\w.-]+", "-", clean(data)), dataset_name=clean(data),
                dataset_split=clean(metrics.get("split"), 40), metric_type=measure, metric_value=round(value, 2),
                metric_name=f"{measure} {arrow(direction)}" + (f", {part}" if part else ""),
            )
            for (part, direction, measure), value in figures.items()
        ] or None,
    )  # fmt: skip
    start = [_short(recipe.model.start)] if recipe.model.start else [_short(name) for name, _ in sources]
    origin = escaped(listed(list(dict.fromkeys(start))) or "features")
    embeds = f"{kind}s and texts into one space" if "media" in content else f"texts, as for {kind}s"
    packages = listed([f"{escaped(name)} {escaped(version)}" for name, version in versions.items()])
    lines = [
        f"# {escaped(title)}",
        f"It embeds {embeds}. It was trained with mmts by the recipe {escaped(recipe.name)}, from {origin}, on "
        f"{escaped(data)}.",
        *_about_pixels(content.get("media", {}), exact=to == "onnx" or needs_mmts),
        "## How to use it",
        f"```python\n{_USES[to].replace('{trust}', ', trust_remote_code=True' if needs_mmts else '')}\n```",
        "`FOLDER` is this folder, or the name of this repository." + needs_mmts * " It needs the package mmts.",
        "## How good it is",
        *(_table(metrics, figures, data) if metrics else ["The run's figures are not of this checkpoint."]),
        "## Limits",
        _limits(directory, metrics),
        "## License",
        "No license was named." if license == UNKNOWN else f"{escaped(license)}.",
        "The terms of the pretrained weights and of the data may limit what may be done with this model.",
        "## How it was made",
        f"```\nmmts train {RECIPE} --data {shlex.quote(clean(data, 1000))} --out {shlex.quote(title)}\n"
        f"mmts export {shlex.quote(title)} --to {to} --checkpoint {checkpoint}\n```",
        f"{RECIPE} holds every setting. Versions of the training: {packages or 'unknown'}. "
        f"Exported by mmts {__version__}.",
    ]
    with atomic_write(folder / "README.md", "w") as file:
        file.write(f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n")
    with atomic_write(folder / RECIPE, "w") as file:
        yaml.safe_dump(_portable({**recipe.model_dump(mode="json"), "versions": versions}), file, sort_keys=False)


def _short(place: object) -> str:
    """Return what of a path may be published: its last part; a name on the hub stays whole."""
    text = str(place)
    if text.startswith(PREFIX):  # open_clip:NAME/FILE
        name, slash, file = text.partition("/")
        return name + slash + _short(file)
    path = Path(text).expanduser()
    return path.name if path.is_absolute() or path.exists() or text.startswith(".") else text


def _portable(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _portable(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_portable(value) for value in content]
    return _short(content) if isinstance(content, str) and "/" in content else content


def _metrics(directory: RunDirectory, checkpoint: str) -> dict[str, Any]:
    """Return the run's own metrics.json; empty if it is of another checkpoint or a stopped run, missing or damaged."""
    metrics = read_kept(directory.metrics_file) or {}
    fits = metrics.get("checkpoint", "best") == checkpoint and "stopped_at" not in metrics
    parts = (metrics.get(name) for name in (*directions_of(metrics), "groups"))
    return metrics if fits and all(isinstance(part, dict) for part in parts) else {}


def _figures(metrics: dict[str, Any]) -> dict[tuple[str | None, str, str], float]:
    """Return the known figures in percent by (part of the queries, direction, measure)."""
    figures = {}
    for part, direction, measure in product(PARTS, directions_of(metrics), shown_measures(metrics)):
        inner = _part(metrics, part).get(direction)
        value = inner.get(measure) if isinstance(inner, dict) else None
        if isinstance(value, int | float):
            figures[part, direction, measure] = value
    return figures


def _part(metrics: dict[str, Any], part: str | None) -> dict[str, Any]:
    return metrics if part is None else metrics["groups"].get(part) or {}


def _table(metrics: dict[str, Any], figures: dict[tuple[str | None, str, str], float], data: str) -> list[str]:
    columns = [*product(directions_of(metrics), shown_measures(metrics))]
    rows = [["queries", "captions", *(f"{arrow(direction)} {measure}" for direction, measure in columns)]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    for part in PARTS:
        number = _part(metrics, part).get("num_captions" if part is None else "num_queries")
        values = [figures.get((part, *column)) for column in columns]
        written = ["–" if value is None else f"{value:.1f}" for value in values]
        rows.append([part or "all", f"{number:,}" if isinstance(number, int) else "–", *written])
    return [
        f"Percent, on the {escaped(metrics.get('split'))} split of {escaped(data)}. Head, mid and tail are captions "
        "of concepts that are frequent, in between, and rare in the training data.",
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
    ]


def _about_pixels(media: dict[str, Any], exact: bool) -> list[str]:
    if "resize" not in media:
        return []
    about = f"It takes squares of {media['size']} × {media['size']} pixels. In training, pictures were "
    about += f"{_RESIZED[media['resize']]} (bicubic); export.json has all settings."
    return [about if exact else f"{about} The library that loads it may resize a little differently."]


def _limits(directory: RunDirectory, metrics: dict[str, Any]) -> str:
    known = []
    if directory.concepts_file.is_file():
        concepts = ConceptDistribution.load(directory.concepts_file)
        sizes, tail = concepts.sizes, int((concepts.concept_groups() == 2).sum())
        known.append(
            f"* It was trained on {counted(len(concepts), 'sample')} of {counted(len(sizes), 'concept')}, which have "
            f"{int(sizes.min()):,} to {int(sizes.max()):,} samples each; the tail is {tail:,} of them."
        )
    if metrics.get("split") == "val":
        known.append("* It was judged on the val split, by which the checkpoint may have been chosen.")
    known += [
        "* It knows less of what is rare in these data, and of what they lack only what the pretrained weights knew.",
        "* The figures hold for data like these, not for other subjects, cameras or languages.",
        "* Nobody has examined it for unfair or harmful associations.",
    ]
    return "\n".join(known)
