"""The concepts of a run's samples: clusters of captions, words in them, labels of media, or read from files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from mmts.concepts import ConceptDistribution, resolve_num_concepts
from mmts.concepts.members import Of
from mmts.console import console
from mmts.data.formats.collect import read_lines
from mmts.data.keyed_labels import read_labels
from mmts.data.records import Label, Split
from mmts.distributed.processes import num_processes, once
from mmts.errors import DataError, InputError, RecipeError, RunError, counted, nearest
from mmts.models.text_encoder import text_encoder
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Concepts

# A sweep's runs in one process share their captions, and clustering them takes seconds.
_clustered = lru_cache(maxsize=2)(ConceptDistribution.from_captions)
_LABELED = ("label", "parquet")
_CHECKED_CAPTIONS = 64  # whose concept is computed again and compared with that of a file


def find_concepts(section: Concepts, train: Split, run: RunDirectory) -> ConceptDistribution:
    """Find the concepts of the training samples and save them, or load those that a resumed run found before.

    All processes embed the captions; the rest is done by the main one.
    """
    embeds = section.source == "captions" and section.encoder != "tfidf"
    if num_processes() > 1 and embeds and not once(run.concepts_file.exists):
        text_encoder(section.encoder)(train.captions)  # into the cache
    return once(lambda: _find_or_load(section, train, run))


def _find_or_load(section: Concepts, train: Split, run: RunDirectory) -> ConceptDistribution:
    if run.concepts_file.exists():
        concepts = ConceptDistribution.load(run.concepts_file)
        other = ""
        try:
            concepts.check_captions(train.captions)
            now = build_distribution(section, train) if section.source in _LABELED else concepts
            if now.keys != concepts.keys or not all(map(torch.equal, now.members, concepts.members)):
                other = "with other labels"
        except InputError as error:
            other = str(error)
        if other:
            raise RunError(f"{run.path} began with other training data ({other}); choose another --out")
        return concepts
    concepts = build_distribution(section, train)
    concepts.save(run.concepts_file)
    largest, smallest = int(concepts.sizes.max()), int(concepts.sizes.min())
    console.print(f"concepts: {len(concepts.sizes)} (sizes {largest:,} down to {smallest:,}) in {run.concepts_file}")
    if bare := concepts.num_bare:
        console.print(f"note: {bare:,} of {counted(len(concepts), 'sample')} have none, and count as one: no concept")
    return concepts


def build_distribution(section: Concepts, split: Split) -> ConceptDistribution:
    """Find the concepts of a split's samples as a recipe's `concepts` section says."""
    if section.source == "label":
        return label_concepts(split, str(section.label), "concepts.label", section.of)
    if section.source == "parquet":
        return _by_labels(_labels(section, split), split, f"{section.column} in {section.file}")
    if section.source == "file":
        return _clusters_in_file(section, split)
    if section.source == "words":
        return _words(section, split)
    num_concepts = resolve_num_concepts(section.num_concepts, split.captions)
    return _clustered(tuple(split.captions), num_concepts, encoder=section.encoder, seed=section.seed)


def load_clusters(file: Path, key: str) -> ConceptDistribution:
    """Read concepts that can be assigned to captions. Raises RecipeError, which begins with `key`, for others."""
    concepts = ConceptDistribution.load(file)
    if not concepts.takes_captions:
        raise RecipeError(f"{key} {file} holds no clusters of captions but {concepts.provenance.get('kind')}")
    return concepts


def _words(section: Concepts, split: Split) -> ConceptDistribution:
    """Find the entries of a file, or the frequent words of the captions, in a split's captions."""
    entries = None
    if section.file is not None:
        entries = [line.strip() for _, line in read_lines(section.file) if line.strip()]
        if not entries:
            raise RecipeError(f"concepts.file: {section.file} is empty; it needs one word, or several, per line")
    try:
        return ConceptDistribution.from_words(split.captions, entries, min_count=section.min_count, of=section.of)
    except InputError as error:
        raise RecipeError(f"concepts.{'min_count' if entries is None else 'file'}: {error}") from None


def _clusters_in_file(section: Concepts, split: Split) -> ConceptDistribution:
    """Read concepts that `ConceptDistribution.from_embeddings` or `from_captions` made of the split's captions."""
    file = section.file
    assert file is not None
    concepts = load_clusters(file, "concepts.file:")
    try:
        concepts.check_captions(split.captions)
        # Evaluation needs the encoder hours later, so use it now. This also shows whether the file's order is that of
        # the captions; a file made of embeddings alone does not record that.
        checked = torch.arange(0, split.num_captions, -(-split.num_captions // _CHECKED_CAPTIONS))
        again = concepts.assign([split.captions[i] for i in checked.tolist()])
    except InputError as error:
        raise RecipeError(f"concepts.file: {file}: {error}") from None
    same = int((again == concepts.labels[checked]).sum())
    if 2 * same < len(checked):
        raise RecipeError(
            f"concepts.file: {file}: of {len(checked)} training captions only {same} are in the concept that the file "
            "gives them: it was made from other captions, or from these in another order; make a new one"
        )
    return concepts


def concepts_of_queries(
    section: Concepts, concepts: ConceptDistribution, split: Split, relevance: str = "text"
) -> tuple[Tensor, Tensor]:
    """Return the training concept of every caption (N,) and medium (M,) of a split that is evaluated; -1 without one.

    A medium's concept is that of its first caption; with graded relevance the captions evaluated are not its own.
    """
    if section.source in _LABELED:
        labels = _labels(section, split)
        unknown = torch.tensor([label is None for label in labels])
        if num_unknown := int(unknown[split.owner].sum()):
            name, samples = section.label or section.column, counted(num_unknown, "sample")
            console.print(f"note: {samples} of {split.name} without a label {name!r}: counted as tail")
        media = concepts.assign([_as_text(label) for label in labels]).masked_fill(unknown, -1)
        return media[split.owner], media
    text = concepts.assign(split.captions)
    if relevance != "graded":
        return text, text[split.first]
    return text, concepts.assign([medium.captions[0] for medium in split.media])


def label_concepts(split: Split, label: str, key: str = "objective", of: Of = "rarest") -> ConceptDistribution:
    """Return the concepts of a split's samples by a label of their media, which the recipe names at `key`.

    of: as in `ConceptDistribution.from_labels`. Raises DataError naming a medium without the label.
    """
    return _by_labels(media_label(split, label, key), split, f"label {label!r}, which {key} asks for", of)


def _by_labels(labels: Sequence[Label | None], split: Split, what: str, of: Of = "rarest") -> ConceptDistribution:
    if None in labels:
        raise DataError(f"medium {split.media[labels.index(None)].id!r} has no {what}")
    return ConceptDistribution.from_labels([labels[owner] for owner in split.owner.tolist()], of)


def _labels(section: Concepts, split: Split) -> Sequence[Label | None]:
    """Return the label of each medium by a recipe's `concepts` section; None for media without it."""
    if section.source == "label":
        return [medium.labels.get(str(section.label)) for medium in split.media]
    assert section.file is not None
    return read_labels(section.file, section.column, section.key, split)


def media_label(split: Split, label: str, key: str) -> list[Label | None]:
    """Return a label of each medium, None for media without it; raises RecipeError if no medium has it."""
    values = [medium.labels.get(label) for medium in split.media]
    if all(value is None for value in values):
        known = sorted({name for medium in split.media for name in medium.labels})
        raise RecipeError(f"{key}: the data has no label {label!r}; {nearest(label, known)}")
    return [None if value is None else _as_text(value) for value in values]


def _as_text(label: object) -> Label:
    """Return a label with its values as strings, which those of a data set made in Python may not be."""
    return [str(value) for value in label] if isinstance(label, list) else str(label)
