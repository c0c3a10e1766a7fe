"""`mmts evaluate MODEL --data PATH`: how good a pretrained pair, or anyone's embeddings, are on data, before training.

The result is a run directory of zero steps, which the other commands take like the directory of a trained run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmts.console import console
from mmts.data.read import read_dataset
from mmts.data.records import Dataset, Split
from mmts.distributed.processes import joined, main_first, on_main, once
from mmts.evaluation.embeddings_file import split_of_embeddings
from mmts.evaluation.run import Opened, evaluate
from mmts.files import file_name, read_kept
from mmts.recipe.choose import public_recipe
from mmts.recipe.model_section import Model
from mmts.recipe.recipe import Recipe, load_recipe, override, parse_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Columns
from mmts.training.concepts import find_concepts, load_clusters
from mmts.training.run import versions
from mmts.training.splits import limited, open_data, resolved


@joined()
def evaluate_pretrained(
    start: str,
    data: Path,
    out: Path | None = None,
    split_name: str | None = None,
    *,
    concepts: str | None = None,
    embeddings_file: Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] = (),
    classify_by: str | None = None,
    prompts: Path | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate `start` on data, write the run directory `out` of zero steps, and return metrics.json's content.

    start: a run, a Hugging Face CLIP or SigLIP (name or folder), `open_clip:NAME/TAG`, a sentence-transformers CLIP
        folder, or an .npz file of embeddings (`read_embeddings`).
    out: a new folder, or that of the same evaluation; None is runs/NAME-DATA.
    split_name: None is the split that a file of embeddings names, else test, val or train.
    concepts: a label of the media, or an .npz file of concepts; None clusters the captions of train.
    settings: KEY=VALUE of the recipe. The other options are those of `mmts.evaluation.run.evaluate`.

    Raises RecipeError for what is not a pretrained pair, DataError for embeddings of other data, and RunError if `out`
    holds another run.
    """
    place = resolved(data)
    read = main_first(lambda: read_dataset(place, (columns or Columns()).model_dump(exclude_none=True)))
    recipe = zero_steps(start, read, concepts, settings).with_data(place, columns)
    run = RunDirectory(out or Path("runs") / file_name(f"{recipe.name}-{place.stem}"))
    if recipe.model.embeddings is not None and split_name is None:
        split_name = split_of_embeddings(recipe.model.embeddings)
    with on_main(lambda: run.held(resume=True)):
        once(lambda: run.begin(recipe, versions()))
        dataset = open_data(recipe.data, read)
        opened = Opened(dataset, lambda split: _find_concepts(recipe, dataset, split, run))
        by: dict[str, Any] = {"labels": labels, "classify_by": classify_by, "prompts": prompts}
        return evaluate(run.path, None, split_name, "best", embeddings_file, opened=opened, **by)


def zero_steps(start: str, dataset: Dataset, concepts: str | None = None, settings: Sequence[str] = ()) -> Recipe:
    """Return the recipe of zero steps whose model is `start` as it is, with the rules of the data set."""
    model: dict[str, Any] = {"start": start, "head": {"kind": "none"}, "text": {"train": "none"}}
    section = Model(start=start)
    kind = section.kind if section.embeddings is None else dataset.media[0].kind
    content: dict[str, Any] = {"name": _name(start), "model": {**model, kind: {"train": "none"}}}
    content["train"] = {"epochs": 0, "trackers": []}
    if (published := public_recipe(dataset.name)) is not None:
        rules = load_recipe(published)
        content["data"] = {"dataset": rules.data.dataset, "relevance": rules.data.relevance}
        if rules.concepts.source == "label":
            content["concepts"] = {"source": "label", "label": rules.concepts.label}
    if concepts is not None:
        source = "file" if concepts.endswith(".npz") or Path(concepts).is_file() else "label"
        content["concepts"] = {"source": source, source: concepts}
    return parse_recipe(override(content, settings), f"mmts evaluate {start}")


def _name(start: str) -> str:
    """Return what a pretrained pair is called: the last part of its name or path.

    >>> _name("openai/clip-vit-base-patch32"), _name("open_clip:ViT-B-32/openai"), _name("/tmp/theirs.npz")
    ('clip-vit-base-patch32', 'ViT-B-32-openai', 'theirs')
    """
    if start.startswith("open_clip:"):
        return start.removeprefix("open_clip:").replace("/", "-")
    return Path(start).expanduser().absolute().name.removesuffix(".npz")


def _find_concepts(recipe: Recipe, dataset: Dataset, split: Split, run: RunDirectory) -> None:
    """Save the concepts by which the captions of the evaluated split are head, mid or tail."""
    if recipe.concepts.source == "file" and (file := recipe.concepts.file) is not None:
        concepts = load_clusters(file, "--concepts")
        concepts.assign(split.captions[:1])  # an encoder that is gone is an error now, not after hours
        once(lambda: concepts.save(run.concepts_file))
        return
    counted_in, has_concepts = split, once(run.concepts_file.exists)
    if "train" in dataset.split_names:
        counted_in = limited(dataset.split("train"), recipe.data.max_media)
    elif has_concepts and (first := (read_kept(run.metrics_file) or {}).get("split")) != split.name:
        console.print(f"note: there is no train split, so head, mid and tail go by the concepts of {first}")
        return
    else:
        by = f"how frequent concepts are in {split.name} itself; --concepts takes a file of concepts"
        console.print(f"note: there is no train split, so head, mid and tail go by {by}")
    find_concepts(recipe.concepts, counted_in, run)
