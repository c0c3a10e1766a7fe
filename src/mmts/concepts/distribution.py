"""The concepts of the training samples, their sizes, and the shifts and groups that follow from the sizes."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts import encoders, kmeans
from mmts.concepts.concepts_file import read_concepts, write_concepts
from mmts.concepts.density import Scale, density_shift
from mmts.concepts.encoders import Encoder, EncoderName, checked_captions, open_encoder
from mmts.concepts.members import OF, Members, Of, size_groups
from mmts.concepts.names import distinctive_words, frequent_words, matched_entries, tokens
from mmts.console import errors
from mmts.errors import InputError, check_one_of, check_rows
from mmts.files import content_hash

TAIL = 2
PACKAGES = ("mmts", "torch", "numpy", "faiss-cpu", "transformers", "sentence-transformers", "scikit-learn")
NO_CONCEPT: tuple[()] = ()
"""The key of the concept that all samples without one share."""
GROUP_NAMES = ("head", "mid", "tail")


@dataclass(eq=False, repr=False)
class ConceptDistribution:
    """The concepts of N training samples: K groups of them, from large to small.

    Made by `from_labels`, `from_words`, `from_captions`, `from_embeddings`, `from_clusters`, `from_counts` or `load`.

    Attributes:
        labels: (N,) int64, the concept of each sample; of several, the one that decides its group.
        sizes: (K,) int64, the size of each concept, all positive.
        names: K readable names.
        provenance: Its source: kind, encoder, num_concepts, seed, hash of the captions, versions.
        keys: The K labels, words or counts that the concepts were made of; None if concepts are clusters.
        centroids: (K, W) float32 of clusters of captions; None for labels and counts.
        encoder: What the centroids were made with; if None, `assign` opens it when it first needs it.
        several: All concepts of each sample, if samples may have several; then sizes sum to more than N.
        of: Whose size counts for a sample with several concepts: of its "rarest", its "commonest", or their "mean".

    >>> d = ConceptDistribution.from_labels(["cup", "cup", "cup", "lamp"])
    >>> d.sizes, d.counts
    (tensor([3, 1]), tensor([3, 3, 3, 1]))
    >>> d.shift(0.05, 0.2)
    tensor([0.2000, 0.2000, 0.2000, 0.0500])
    """

    labels: Tensor
    sizes: Tensor
    names: list[str]
    provenance: dict[str, Any]
    keys: list[Hashable] | None = None
    centroids: Tensor | None = None
    encoder: Encoder | None = None
    several: Members | None = None
    of: Of = "rarest"

    @classmethod
    def from_labels(cls, labels: Iterable[Hashable | list[Any]], of: Of = "rarest") -> "ConceptDistribution":
        """Make one concept of each distinct label, numbered in the order in which they first appear.

        labels: (N,) any hashables; tensors, arrays and their scalars become Python values. Python's equality decides:
        1, 1.0 and True are one label, "1" is another. A list holds the several labels of a sample, each counted once
        (docs/method.md, 2.8); samples with an empty list share one concept, "no concept". of: whose size counts for a
        sample with several: of its "rarest" label, its "commonest", or their "mean". Raises InputError without labels,
        naming the row of one that is NaN or cannot be hashed, or for an unknown `of`.

        >>> ConceptDistribution.from_labels([3, 1, 3]).labels
        tensor([0, 1, 0])
        >>> d = ConceptDistribution.from_labels([["cup", "dog"], ["dog"], []])
        >>> d.names, d.sizes.tolist(), d.counts.tolist()
        (['cup', 'dog', 'no concept'], [1, 2, 1], [1, 2, 1])
        """
        return cls._from_keys("labels", _plain_values(labels, "labels", lists=True), of)

    @classmethod
    def from_words(
        cls, captions: Sequence[str], entries: Iterable[str] | None = None, *, min_count: int = 5, of: Of = "rarest"
    ) -> "ConceptDistribution":
        """Make one concept of each entry that a caption (N,) contains (docs/method.md, 2.9).

        Captions that contain no entry share one concept, "no concept". entries: words, or several in a row; case does
        not count. None takes the words of the captions themselves, except stop words, that are in at least `min_count`
        captions. of: as in `from_labels`. Raises InputError without captions, naming the row of an empty one, or if no
        caption contains an entry.

        >>> d = ConceptDistribution.from_words(["A hot dog.", "a dog", "Dogs"], ["dog", "Hot dog"])
        >>> d.names, d.sizes.tolist(), d.labels.tolist()
        (['hot dog', 'dog', 'no concept'], [1, 2, 1], [0, 1, 2])

        Source: MetaCLIP, arXiv 2309.16671, section 3.2.
        """
        captions = checked_captions(captions)
        if entries is None:
            known = frequent_words(captions, min_count)
        else:
            known = list(dict.fromkeys(" ".join(tokens(entry)) for entry in entries))
        rows = matched_entries(captions, known)
        if captions and not any(rows):
            missing = f"no word, except stop words, is in {min_count} of the {len(captions)} captions"
            raise InputError(missing if entries is None else "no caption contains an entry")
        made = cls._from_keys("words", rows, of)
        made.provenance["captions_hash"] = content_hash(*captions)
        return made

    @classmethod
    def from_counts(cls, counts: Iterable[int] | Tensor) -> "ConceptDistribution":
        """Take the sizes of the samples' concepts as given; samples with equal sizes share a concept.

        counts: (N,) positive whole numbers. They need not sum to N: the samples may be a part of the counted data.
        Raises InputError without counts, or naming the row of one that is not a positive whole number.

        >>> d = ConceptDistribution.from_counts([500, 3, 500])
        >>> d.sizes, d.labels, d.counts
        (tensor([500,   3]), tensor([0, 1, 0]), tensor([500,   3, 500]))
        """
        values = _plain_values(counts, "counts")
        for row, n in enumerate(values):
            is_number = isinstance(n, int | float) and not isinstance(n, bool)
            if not is_number or not 0 < n < 2**63 or n != int(n):
                raise InputError(f"counts: row {row} is {n!r}; it must be a positive whole number")
        return cls._from_keys("counts", [int(n) for n in values])

    @classmethod
    def _from_keys(cls, kind: str, values: Sequence[Any], of: Of = "rarest") -> "ConceptDistribution":
        if not values:
            raise InputError(f"{kind} are empty: a distribution needs at least one sample")
        check_one_of("of", of, OF)
        keys = list(dict.fromkeys(key for value in values for key in _keys_in(value)))
        several, names = None, ["no concept" if key == NO_CONCEPT else str(key) for key in keys]
        if any(isinstance(value, list) for value in values):
            several = _members(values, keys)
            sizes = torch.bincount(several.ids)
            labels = several.deciding(sizes, of)
        else:
            ids = {key: i for i, key in enumerate(keys)}
            labels = torch.tensor([ids[value] for value in values])
            sizes = torch.bincount(labels)
        if kind == "counts":
            sizes, names = torch.tensor(keys), [f"size {key}" for key in keys]
        about = {"kind": kind, "num_concepts": len(keys), "num_samples": len(values), "versions": _versions()}
        return cls(labels, sizes, names, about, keys=keys, several=several, of=of)

    @classmethod
    def from_captions(
        cls,
        captions: Sequence[str],
        num_concepts: int | Literal["auto"] = 200,
        encoder: EncoderName = "minilm",
        seed: int = 0,
    ) -> "ConceptDistribution":
        """Cluster the embeddings of captions (N,) with k-means; concept 0 is the largest.

        Repeated captions count as often as they occur. If there are more than 262,144 distinct ones, k-means runs on a
        random sample of that many, and one pass assigns all of them.

        num_concepts: K, at most the number of distinct captions, or "auto" (see `resolve_num_concepts`). If embeddings
        coincide there may be fewer; standard error says so. encoder: "minilm" (all-MiniLM-L6-v2, packaged), "tfidf"
        (TF-IDF and truncated SVD, fitted to the captions), the name or folder of a pretrained model (see
        `mmts.models.text_encoder`), or a function captions -> (N, W) rows of any norm. seed: of k-means and of "tfidf".

        Raises InputError without captions, naming the row of an empty one, for fewer distinct captions than concepts,
        or for an unknown encoder.

        >>> d = ConceptDistribution.from_captions(["red shoe", "blue shoe", "my shoe", "sun hat"], 2, encoder="tfidf")
        >>> d.sizes.tolist(), d.labels.tolist()
        ([3, 1], [0, 0, 0, 1])

        Source: MM-TS, arXiv 2603.08202 (clusters of frozen caption features).
        """
        captions = checked_captions(captions)
        if not captions:
            raise InputError("captions are empty: a distribution needs at least one sample")
        num_concepts = kmeans.resolve_num_concepts(num_concepts, captions)
        opened = open_encoder(encoder, captions, seed=seed)
        rows, occurrences, row_of = encoders.encode_distinct(captions, opened)
        # Distinct captions weighted by their number have the same objective as all captions, and k-means cannot start
        # with two centroids in one place.
        clusters = kmeans.clusters_of(rows, num_concepts, weights=occurrences.astype(np.float32), seed=seed)
        clusters = clusters._replace(labels=clusters.labels[row_of])
        about = {"kind": "captions", "num_concepts": num_concepts, "seed": seed}
        return cls._by_size(clusters, about, captions, opened)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: kmeans.Embeddings,
        num_concepts: int = 200,
        *,
        captions: Sequence[str] | None = None,
        encoder: EncoderName | None = None,
        seed: int = 0,
    ) -> "ConceptDistribution":
        """Cluster embeddings of captions that were computed before, even more of them than fit in memory.

        If there are more than 262,144 rows, k-means runs on a random sample of that many, and one pass, which resumes
        after an interrupt, assigns all of them. For many machines: `sampled_centroids`, `assign_rows`, `from_clusters`.

        embeddings: (N, W) float16 or float32, an array or a .npy file; each row is divided by its norm. captions (N,)
        give the concepts their names, and are checked later. encoder: what computed the rows, as in `from_captions`,
        but not "tfidf"; `assign` needs it for captions. Raises DataError for a missing file or one without rows of
        numbers, InputError for rows of another type or not finite, and for numbers of rows, captions and concepts that
        do not fit.

        >>> d = ConceptDistribution.from_embeddings(np.array([[1, 0], [1, 0.1], [0, 1]], np.float16), 2)
        >>> d.sizes.tolist(), d.assign(np.array([[0.2, 0.9]])).tolist()
        ([2, 1], [1])
        """
        centroids, labels, num_dropped = kmeans.clusters_of(embeddings, num_concepts, seed=seed)
        about = {"num_concepts": num_concepts, "num_dropped": num_dropped, "seed": seed}
        return cls.from_clusters(labels, centroids, captions=captions, encoder=encoder, **about)

    @classmethod
    def from_clusters(
        cls,
        labels: npt.ArrayLike,
        centroids: npt.NDArray[np.float32],
        *,
        captions: Sequence[str] | None = None,
        encoder: EncoderName | None = None,
        **about: Any,
    ) -> "ConceptDistribution":
        """Take clusters found elsewhere, such as what `assign_rows` gave on many machines; concept 0 is the largest.

        labels (N,) are the numbers of the samples' centroids (K, W) float32; a centroid without samples is dropped.
        captions and encoder as in `from_embeddings`; `about` goes into `provenance`. Raises InputError naming the row
        of a label that is not the number of a centroid, or if the number of captions differs.

        >>> ConceptDistribution.from_clusters([2, 2, 0], np.eye(3, dtype=np.float32)).labels
        tensor([0, 0, 1])
        """
        centroids, numbers = np.asarray(centroids, np.float32), np.asarray(labels)
        if centroids.ndim != 2:
            raise InputError(f"centroids are {centroids.shape}; they must be (K, W)")
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
            raise InputError(f"labels are {numbers.shape} of {numbers.dtype}; they must be (N,) whole numbers")
        expected = f"it must be the number of a centroid, 0 to {len(centroids) - 1}"
        inside = (numbers >= 0) & (numbers < len(centroids))
        check_rows(inside, f"labels: row {{row}} is {{value}}; {expected}", numbers)
        if captions is not None and len(checked_captions(captions)) != len(numbers):
            raise InputError(f"there are {len(captions)} captions and {len(numbers)} rows; every row needs one caption")
        if encoder == "tfidf":
            raise InputError('the encoder "tfidf" differs from data to data; use from_captions for it')
        opened = None if encoder is None else open_encoder(encoder)
        clusters = kmeans.without_empty(centroids, numbers.astype(np.int64))
        return cls._by_size(clusters, {"kind": "embeddings", **about}, captions, opened)

    @classmethod
    def _by_size(
        cls, clusters: kmeans.Clusters, about: dict[str, Any], captions: Sequence[str] | None, encoder: Encoder | None
    ) -> "ConceptDistribution":
        """Number K clusters, none of them empty, from the largest to the smallest, and name them."""
        centroids, numbers, num_dropped = clusters
        about = {"num_dropped": num_dropped, **about, "num_samples": len(numbers), "versions": _versions()}
        if encoder is not None:
            about |= {"encoder": encoder.name, "encoder_fingerprint": encoder.fingerprint}
        if num_dropped := about["num_dropped"]:
            wanted = len(centroids) + num_dropped
            errors.print(f"{num_dropped} of {wanted} concepts ended without captions and were dropped")
        sizes, order = torch.from_numpy(np.bincount(numbers)).sort(descending=True, stable=True)
        labels = torch.argsort(order)[torch.from_numpy(numbers)]
        names = [f"cluster {concept}" for concept in range(len(sizes))]
        if captions is not None:
            about["captions_hash"] = content_hash(*captions)
            names = distinctive_words(captions, labels.tolist(), len(sizes))
        stored = torch.from_numpy(centroids[order.numpy()])
        return cls(labels, sizes, names, about, centroids=stored, encoder=encoder)

    @property
    def counts(self) -> Tensor:
        """Return (N,) int64, the size of each sample's concept: sizes[labels], or with `of="mean"` the mean of several.

        >>> ConceptDistribution.from_labels([["cup", "dog"], ["dog"], ["dog"]], of="mean").counts
        tensor([2, 3, 3])
        """
        if self.several is not None and self.of == "mean":
            return self.several.mean_size(self.sizes)
        return self.sizes[self.labels]

    @property
    def members(self) -> Members:
        """Return all concepts of each sample: offsets (N + 1,) and ids, of which sample i has those between two.

        >>> ConceptDistribution.from_labels(["cup", "dog"]).members
        Members(offsets=tensor([0, 1, 2]), ids=tensor([0, 1]))
        """
        return self.several or Members(torch.arange(len(self) + 1), self.labels)

    @property
    def num_bare(self) -> int:
        """Return the number of samples without a concept, which share one."""
        return int(self.sizes[self.keys.index(NO_CONCEPT)]) if self.keys and NO_CONCEPT in self.keys else 0

    @property
    def num_concepts(self) -> int:
        """Return K."""
        return len(self.sizes)

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def __repr__(self) -> str:
        sizes = f"{int(self.sizes.max())} down to {int(self.sizes.min())}"
        return f"ConceptDistribution({len(self)} samples, {self.num_concepts} concepts, sizes {sizes})"

    def shift(self, low: float, high: float, scale: Scale = "linear", exponent: float | None = None) -> Tensor:
        """Map the size of each sample's concept to [low, high], as `density_shift` does: (N,) float32.

        >>> ConceptDistribution.from_counts([1, 10, 100]).shift(0.0, 1.0, scale="log")
        tensor([0.0000, 0.5000, 1.0000])

        Source: MM-TS, arXiv 2603.08202 (linear).
        """
        return density_shift(self.counts, low, high, scale, exponent)

    @property
    def takes_captions(self) -> bool:
        """Return whether `assign` takes captions: concepts are clusters of them, or words in them."""
        return self.keys is None or self.provenance.get("kind") == "words"

    def assign(self, items: Iterable[Hashable | list[Any]]) -> Tensor:
        """Return the concept (Q,) int64 of Q new captions (nearest centroid, or words) or labels (-1 if unknown).

        If concepts are clusters, `items` may also be embeddings of captions (Q, W). Of several labels or words the one
        that `of` names decides; an unknown label is the rarest of all. Raises InputError naming the row of an empty
        caption or a NaN label, or if the encoder is gone or has changed.

        >>> ConceptDistribution.from_labels(["cup", "lamp"]).assign(["lamp", "chair"])
        tensor([ 1, -1])
        """
        if self.keys is not None:
            if self.takes_captions:
                values: list[Any] = matched_entries(checked_captions(items), self.keys)
            else:
                values = _plain_values(items, "labels", lists=True)
            return _members(values, self.keys).deciding(self.sizes, self.of)
        assert self.centroids is not None
        if getattr(items, "ndim", 1) == 2:
            rows = np.asarray(items, np.float32)
        else:
            captions = checked_captions(items)
            if not captions:
                return torch.empty(0, dtype=torch.int64)
            rows = self._open_encoder()(captions)
        if (found := rows.shape[1]) != (width := self.centroids.shape[1]):
            raise InputError(f"the embeddings have width {found}; these concepts were made from rows of width {width}")
        return torch.from_numpy(kmeans.nearest(kmeans.unit_rows(rows), self.centroids.numpy())[0])

    def concept_groups(self) -> Tensor:
        """Return (K,) int64: 0 head, 1 mid, 2 tail, by the share of samples whose concept is strictly larger.

        Under a third: head; under two thirds: mid; else tail. Equal sizes share a group.

        >>> ConceptDistribution.from_labels(list("aaaabbbcc")).concept_groups()
        tensor([0, 1, 2])
        """
        return size_groups(self.sizes, self.sizes[self.labels])

    def groups(self) -> Tensor:
        """Return (N,) int64: the group of each sample's concept, as `concept_groups` defines it."""
        return self.concept_groups()[self.labels]

    def groups_of(self, concepts: Tensor) -> Tensor:
        """Return the group (Q,) int64 of Q concepts that `assign` gave; an unknown one (-1) is tail.

        >>> d = ConceptDistribution.from_labels(["cup", "cup", "lamp"])
        >>> d.groups_of(d.assign(["cup", "lamp", "chair"]))
        tensor([0, 2, 2])
        """
        known = (concepts >= -1) & (concepts < self.num_concepts)
        check_rows(known, f"concept {{value}} in row {{row}} is not in -1 to {self.num_concepts - 1}", concepts)
        return torch.cat([self.concept_groups(), torch.tensor([TAIL])])[concepts]  # -1 takes the last

    def check_captions(self, captions: Sequence[str]) -> None:
        """Raise InputError if this was made from other training captions, or from these in another order.

        Labels and counts know only the number of captions.
        """
        n, expected = len(captions), self.provenance.get("captions_hash")
        made = "these concepts were made from"
        if n != len(self):
            raise InputError(f"{made} {len(self)} samples, but there are {n} captions; make them again")
        if expected is not None and content_hash(*captions) != expected:
            raise InputError(f"{made} other captions than these {n}, or in another order; make them again")

    def save(self, path: str | Path) -> None:
        """Write everything to an .npz file (no pickle), atomically.

        Raises InputError for a label that is not a str, int, float, bool, None or a tuple of these.
        """
        write_concepts(path, self)

    @classmethod
    def load(cls, path: str | Path, *, encoder: EncoderName | None = None) -> "ConceptDistribution":
        """Read what `save` wrote; raises DataError for any other file.

        encoder: For `assign`, if the saved encoder was a function, or a model folder that has moved since.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "concepts.npz"
        >>> ConceptDistribution.from_labels(["cup", ("lamp", 2)]).save(path)
        >>> ConceptDistribution.load(path).assign([("lamp", 2)])
        tensor([1])
        """
        return cls(**read_concepts(path, encoder))

    def _open_encoder(self) -> Encoder:
        """Return the encoder that the centroids were made with."""
        if "encoder" not in self.provenance:
            remedy = "give from_embeddings or from_clusters the `encoder`, or `assign` embeddings instead of captions"
            raise InputError(f"these concepts were made from embeddings of an unknown encoder; {remedy}")
        name, fingerprint = self.provenance["encoder"], str(self.provenance["encoder_fingerprint"])
        if self.encoder is None and fingerprint.startswith("function "):
            remedy = "give it as ConceptDistribution.load(path, encoder=function)"
            raise InputError(f"these concepts were made with the function {name}, which no file can hold; {remedy}")
        self.encoder = self.encoder or open_encoder(name)
        # Nothing is known of a function but its name, so any function is accepted.
        if not isinstance(self.encoder, encoders.FunctionEncoder) and self.encoder.fingerprint != fingerprint:
            wanted = f"the one these concepts were made with ({name}: {fingerprint}); make the concepts again"
            raise InputError(f"the encoder given ({self.encoder.fingerprint}) is not {wanted}")
        return self.encoder


@cache  # metadata are read from files
def _versions() -> dict[str, str]:
    known = {package: [*metadata.distributions(name=package)] for package in PACKAGES}
    return {package: found[0].version for package, found in known.items() if found}


def _keys_in(value: Any) -> Sequence[Hashable]:
    """Return the keys of a sample: those in a list, or the value itself."""
    return (value or [NO_CONCEPT]) if isinstance(value, list) else (value,)


def _members(values: Sequence[Any], keys: Sequence[Hashable]) -> Members:
    """Return the concepts of samples by their keys, -1 for an unknown key."""
    ids = {key: i for i, key in enumerate(keys)}
    return Members.of_rows([[ids.get(key, -1) for key in _keys_in(value)] for value in values])


def _plain_values(values: Iterable[Any], what: str, lists: bool = False) -> list[Any]:
    """Return hashable Python values of tensors, arrays and scalars; raise InputError naming the row of any other.

    lists: take a list of several values too, and return it with each value once.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        kind = "one string" if isinstance(values, str | bytes) else type(values).__name__
        raise InputError(f"{what} are {kind}; they must be a sequence with one entry per sample")
    if (shape := getattr(values, "shape", None)) is not None and len(shape) != 1:
        raise InputError(f"{what} have shape {tuple(shape)}; they must have one dimension")
    items = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    return [
        list(dict.fromkeys(_plain(part, what, row) for part in value)) if lists and isinstance(value, list)
        else _plain(value, what, row)
        for row, value in enumerate(items)
    ]  # fmt: skip


def _plain(value: Any, what: str, row: int) -> Hashable:
    if type(value) in (str, int, bool) or value is None:  # nearly always
        return value  # type: ignore[no-any-return]
    if isinstance(value, tuple):
        return tuple(_plain(part, what, row) for part in value)
    try:
        value = value.item() if isinstance(value, Tensor | np.generic | np.ndarray) else value
        hash(value)
        missing = bool(value != value)
    except (TypeError, ValueError, RuntimeError):  # pandas.NA does not say whether it equals itself
        kind = type(value).__name__
        raise InputError(f"{what}: row {row} is a {kind}, not one value that can be hashed and compared") from None
    if missing:
        raise InputError(f"{what}: row {row} is NaN")
    return value  # type: ignore[no-any-return]
