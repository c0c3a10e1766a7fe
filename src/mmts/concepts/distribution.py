"""Which concept each training sample belongs to, how large each concept is, and what follows from that."""

import json
import operator
from collections.abc import Hashable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.concepts.encoders import (
    EncoderFunction,
    FunctionEncoder,
    TextEncoder,
    TfidfEncoder,
    checked_captions,
    encode_distinct,
    open_encoder,
    unit_rows,
)
from mmts.concepts.kmeans import SAMPLE, Labels, kmeans, nearest, without_empty
from mmts.concepts.labels import count, decode_key, encode_key, plain_values
from mmts.concepts.names import distinctive_words
from mmts.concepts.shift import Scale, density_shift
from mmts.concepts.stored_rows import Embeddings, open_rows, sampled_kmeans
from mmts.console import errors
from mmts.errors import DataError, InputError, MmtsError, quoted, shortened
from mmts.files import atomic_write, content_hash, why_missing

HEAD, MID, TAIL = 0, 1, 2
GROUP_NAMES = ("head", "mid", "tail")
FORMAT = 1


class ConceptDistribution:
    """The concepts of N training samples: K groups of them, with sizes from many down to one.

    Made by `from_labels`, `from_captions`, `from_embeddings`, `from_counts` or `load`.

    Attributes:
        labels: (N,) int64, the concept of each sample.
        sizes: (K,) int64, the size of each concept, all positive.
        names: K readable labels.
        provenance: What it was made from: kind, encoder, num_concepts, seed, hash of the captions, versions.
        centroids: (K, W) float32 of the clusters of captions; None for labels and counts.

    >>> d = ConceptDistribution.from_labels(["cup", "cup", "cup", "lamp"])
    >>> d.sizes, d.counts
    (tensor([3, 1]), tensor([3, 3, 3, 1]))
    >>> d.shift(0.05, 0.2)
    tensor([0.2000, 0.2000, 0.2000, 0.0500])
    """

    def __init__(
        self,
        labels: Tensor,
        sizes: Tensor,
        names: list[str],
        provenance: dict[str, Any],
        *,
        keys: list[Hashable] | None = None,
        centroids: Tensor | None = None,
        encoder: TextEncoder | None = None,
    ) -> None:
        self.labels = labels
        self.sizes = sizes
        self.names = names
        self.provenance = provenance
        self.centroids = centroids
        self._keys = keys  # K labels, in the order of their concepts; None where concepts are clusters
        self._encoder = encoder  # opened when `assign` first needs it

    @classmethod
    def from_labels(cls, labels: Iterable[Hashable]) -> "ConceptDistribution":
        """Make one concept of each distinct label, numbered in the order they first appear.

        Args:
            labels: (N,) any hashables; tensors, arrays and their scalars become Python values. Python's equality
                decides: 1, 1.0 and True are one label, "1" is another.

        Raises:
            InputError: no labels, NaN, or something that cannot be hashed, with its row.

        >>> ConceptDistribution.from_labels([3, 1, 3]).labels
        tensor([0, 1, 0])
        """
        values = plain_values(labels, "labels")
        if not values:
            raise InputError("labels are empty: a distribution needs at least one sample")
        keys = list(dict.fromkeys(values))
        ids = {key: i for i, key in enumerate(keys)}
        rows = torch.tensor([ids[value] for value in values])
        provenance = {"kind": "labels", "num_concepts": len(keys), "num_samples": len(values), "versions": _versions()}
        return cls(rows, torch.bincount(rows, minlength=len(keys)), [str(key) for key in keys], provenance, keys=keys)

    @classmethod
    def from_captions(
        cls,
        captions: Sequence[str],
        num_concepts: int | Literal["auto"] = 200,
        encoder: str | Path | EncoderFunction = "minilm",
        seed: int = 0,
    ) -> "ConceptDistribution":
        """Cluster the captions' embeddings with k-means; concept 0 is the largest.

        Of more than 262,144 distinct captions so many are drawn for k-means, and all are assigned in one pass.

        Args:
            captions: (N,) non-empty strings. Repeated ones count as often as they stand there.
            num_concepts: K, at most the number of distinct captions, or "auto" (see `resolve_num_concepts`). Fewer come
                back, and that is said on standard error, where embeddings coincide.
            encoder: As in `mmts.concepts.encoders.encode_captions`.
            seed: Of k-means and of "tfidf".

        Raises:
            InputError: no captions, an empty one (with its row), too many concepts, or no such encoder.

        >>> d = ConceptDistribution.from_captions(["red shoe", "blue shoe", "my shoe", "sun hat"], 2, encoder="tfidf")
        >>> d.sizes.tolist(), d.labels.tolist()
        ([3, 1], [0, 0, 0, 1])

        Source: MM-TS, arXiv 2603.08202 (clusters of frozen caption features).
        """
        captions = checked_captions(captions)
        if not captions:
            raise InputError("captions are empty: a distribution needs at least one sample")
        num_concepts = resolve_num_concepts(num_concepts, captions)
        opened = open_encoder(encoder, captions, seed=seed)
        # k-means over distinct captions weighted by how often they stand there has the same objective as over all, and
        # does not start with two centroids in one place.
        features, occurrences, rows_of = encode_distinct(captions, opened)
        weights = occurrences.astype(np.float32)
        find = kmeans if len(features) <= SAMPLE else sampled_kmeans
        centroids, clusters, num_dropped = find(features, num_concepts, weights=weights, seed=seed)
        provenance = {
            "kind": "captions",
            **_about_encoder(encoder, opened),
            "num_concepts": num_concepts,
            "num_dropped": num_dropped,
            "seed": seed,
        }
        return cls._by_size(centroids, clusters[rows_of], provenance, captions, opened)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Embeddings,
        num_concepts: int = 200,
        *,
        captions: Sequence[str] | None = None,
        encoder: str | Path | EncoderFunction | None = None,
        seed: int = 0,
    ) -> "ConceptDistribution":
        """Cluster embeddings of captions that were computed beforehand, also more of them than memory holds.

        Of more than 262,144 rows so many are drawn for k-means, and all are assigned in one pass, which goes on where
        an interrupted one stopped. `mmts.concepts.stored_rows` has the two steps one by one, for many machines.

        Args:
            embeddings: (N, W) float16 or float32, an array or a .npy file; each row is made a unit row.
            num_concepts: K, at most N.
            captions: (N,) what the rows are embeddings of: for the concepts' names, and to be checked against later.
            encoder: What computed the rows, as in `mmts.concepts.encoders.encode_captions` but not "tfidf": for
                `assign` to find the concepts of captions.
            seed: Of the sample and of k-means.

        Raises:
            DataError: no such file, or one that holds no rows of numbers.
            InputError: rows of another type, one that is not finite, too many concepts, another number of captions.

        >>> d = ConceptDistribution.from_embeddings(np.array([[1, 0], [1, 0.1], [0, 1]], np.float16), 2)
        >>> d.sizes.tolist(), d.assign(np.array([[0.2, 0.9]])).tolist()
        ([2, 1], [1])
        """
        rows = open_rows(embeddings)
        if not 1 <= num_concepts <= len(rows.values):
            raise InputError(
                f"num_concepts is {num_concepts}; a number from 1 to {len(rows.values)}, the rows, is right"
            )
        if len(rows.values) <= SAMPLE:
            found = kmeans(rows.read(slice(None)), num_concepts, seed=seed)
        else:
            found = sampled_kmeans(rows, num_concepts, seed=seed)
        about = {"num_concepts": num_concepts, "num_dropped": found.num_dropped, "seed": seed}
        return cls.from_clusters(found.labels, found.centroids, captions=captions, encoder=encoder, **about)

    @classmethod
    def from_clusters(
        cls,
        labels: npt.ArrayLike,
        centroids: npt.NDArray[np.float32],
        *,
        captions: Sequence[str] | None = None,
        encoder: str | Path | EncoderFunction | None = None,
        **about: Any,
    ) -> "ConceptDistribution":
        """Take clusters found elsewhere, such as what `assign_rows` gave on many machines; concept 0 is the largest.

        Args:
            labels: (N,) whole numbers, the centroid of each sample; a centroid without samples is left out.
            centroids: (K, W) float32.
            captions: As in `from_embeddings`.
            encoder: As in `from_embeddings`.
            about: What else to keep in `provenance`.

        Raises:
            InputError: a label that is no centroid's (with its row), or another number of captions.

        >>> ConceptDistribution.from_clusters([2, 2, 0], np.eye(3, dtype=np.float32)).labels
        tensor([0, 0, 1])
        """
        centroids, numbers = np.asarray(centroids, np.float32), np.asarray(labels)
        if centroids.ndim != 2:
            raise InputError(f"centroids are {centroids.shape}; (K, W) is right")
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not len(numbers):
            raise InputError(f"labels are {numbers.shape} of {numbers.dtype}; (N,) whole numbers are right")
        wrong = (numbers < 0) | (numbers >= len(centroids))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(f"labels: row {row} is {numbers[row]}; 0 to {len(centroids) - 1}, the centroids, is right")
        if captions is not None and len(checked_captions(captions)) != len(numbers):
            raise InputError(f"there are {len(captions)} captions and {len(numbers)} rows; one caption a row is right")
        if encoder == "tfidf":
            raise InputError(
                'the encoder "tfidf" is another one for all captions; rows made with it need from_captions'
            )
        opened = None if encoder is None else open_encoder(encoder)
        found = without_empty(centroids, numbers.astype(np.int64))
        known = {} if opened is None else _about_encoder(encoder, opened)
        provenance = {"kind": "embeddings", **known, "num_dropped": found.num_dropped, **about}
        return cls._by_size(found.centroids, found.labels, provenance, captions, opened)

    @classmethod
    def _by_size(
        cls,
        centroids: npt.NDArray[np.float32],
        clusters: Labels,
        provenance: dict[str, Any],
        captions: Sequence[str] | None,
        encoder: TextEncoder | None,
    ) -> "ConceptDistribution":
        """Number K clusters, none of them empty, by falling size, and name them."""
        if num_dropped := provenance["num_dropped"]:
            wanted = len(centroids) + num_dropped
            errors.print(f"{num_dropped} of {wanted} concepts ended without captions and were dropped")
        labels = torch.from_numpy(clusters)
        sizes = torch.bincount(labels, minlength=len(centroids))
        order = torch.argsort(sizes, descending=True, stable=True)
        labels, sizes = torch.argsort(order)[labels], sizes[order]
        stored = torch.from_numpy(np.ascontiguousarray(centroids[order.numpy()]))
        provenance = {
            **provenance,
            "num_samples": len(labels),
            **({} if captions is None else {"captions_hash": content_hash(*captions)}),
            "versions": _versions("faiss-cpu", "transformers", "sentence-transformers", "scikit-learn"),
        }
        if captions is None:
            names = [f"cluster {concept}" for concept in range(len(sizes))]
        else:
            names = distinctive_words(captions, labels.tolist(), len(sizes))
        return cls(labels, sizes, names, provenance, centroids=stored, encoder=encoder)

    @classmethod
    def from_counts(cls, counts: Iterable[int] | Tensor) -> "ConceptDistribution":
        """Take the size of each sample's concept as given; equal sizes are one concept.

        Args:
            counts: (N,) positive whole numbers. They need not sum to N: the samples may be a part of the data counted.

        Raises:
            InputError: no counts, or one that is not positive and whole, with its row.

        >>> d = ConceptDistribution.from_counts([500, 3, 500])
        >>> d.sizes, d.labels, d.counts
        (tensor([500,   3]), tensor([0, 1, 0]), tensor([500,   3, 500]))
        """
        values = plain_values(counts, "counts")
        if not values:
            raise InputError("counts are empty: a distribution needs at least one sample")
        whole = [count(value, row) for row, value in enumerate(values)]
        keys = list(dict.fromkeys(whole))
        ids = {key: i for i, key in enumerate(keys)}
        provenance = {"kind": "counts", "num_concepts": len(keys), "num_samples": len(values), "versions": _versions()}
        return cls(
            torch.tensor([ids[value] for value in whole]),
            torch.tensor(keys),
            [f"size {key}" for key in keys],
            provenance,
            keys=list(keys),
        )

    @property
    def counts(self) -> Tensor:
        """Return (N,) int64, the size of each sample's concept: sizes[labels]."""
        return self.sizes[self.labels]

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

    def shift(self, low: float, high: float, scale: Scale = "linear") -> Tensor:
        """Map the size n of each sample's concept to [low, high].

            shift = low + (high - low) f(n)
            linear: f = (n - n_min) / (n_max - n_min)
            log:    f = (ln n - ln n_min) / (ln n_max - ln n_min)
            rank:   f = (r - 1) / (R - 1), r = rank of n among the R distinct sizes

        and f = 1/2 where all sizes are equal. With `low` above `high` small concepts get the larger value.

        Args:
            low: Value of the smallest concept.
            high: Value of the largest.
            scale: "linear" leaves nearly all concepts at `low` when one dominates; "log" and "rank" spread them.

        Returns:
            (N,) float32.

        >>> ConceptDistribution.from_counts([1, 10, 100]).shift(0.0, 1.0, scale="log")
        tensor([0.0000, 0.5000, 1.0000])

        Source: MM-TS, arXiv 2603.08202 (linear).
        """
        return density_shift(self.sizes, low, high, scale)[self.labels]

    def assign(self, items: Sequence[str] | Iterable[Hashable]) -> Tensor:
        """Return the concept (M,) int64 of new captions (nearest centroid) or of labels (-1 where unknown).

        Concepts that are clusters take embeddings (M, W) of captions too.

        Raises:
            InputError: an empty caption or a NaN label, with its row; an encoder that is gone or has changed.

        >>> ConceptDistribution.from_labels(["cup", "lamp"]).assign(["lamp", "chair"])
        tensor([ 1, -1])
        """
        if self._keys is not None:
            ids = {key: i for i, key in enumerate(self._keys)}
            values = plain_values(items, "labels")
            return torch.tensor([ids.get(value, -1) for value in values], dtype=torch.int64)
        assert self.centroids is not None
        if getattr(items, "ndim", 1) == 2:
            rows = unit_rows(np.asarray(items, np.float32))
        else:
            captions = checked_captions(items)
            if not captions:
                return torch.empty(0, dtype=torch.int64)
            rows = self._open_encoder().encode(captions)
        if rows.shape[1] != self.centroids.shape[1]:
            raise InputError(
                f"the embeddings are of width {rows.shape[1]}; "
                f"these concepts were made from rows of width {self.centroids.shape[1]}"
            )
        return torch.from_numpy(nearest(rows, self.centroids.numpy()))

    def concept_groups(self) -> Tensor:
        """Return (K,) int64: 0 head, 1 mid, 2 tail, by the share of samples whose concept is strictly larger.

        Under a third: head; under two thirds: mid; else tail. Equal sizes share a group.

        >>> ConceptDistribution.from_labels(list("aaaabbbcc")).concept_groups()
        tensor([0, 1, 2])
        """
        distinct, rank = torch.unique(self.sizes, return_inverse=True)
        samples = torch.bincount(rank[self.labels], minlength=len(distinct))  # of each size, ascending
        larger = (len(self) - samples.cumsum(0))[rank]
        # Whole numbers: a share of exactly one third must not depend on rounding.
        return (3 * larger >= len(self)).long() + (3 * larger >= 2 * len(self)).long()

    def groups(self) -> Tensor:
        """Return (N,) int64: the group of each sample's concept, as `concept_groups` defines it."""
        return self.concept_groups()[self.labels]

    def groups_of(self, concepts: Tensor) -> Tensor:
        """Return the group (M,) int64 of concepts that `assign` gave; an unknown one (-1) is tail.

        >>> d = ConceptDistribution.from_labels(["cup", "cup", "lamp"])
        >>> d.groups_of(d.assign(["cup", "lamp", "chair"]))
        tensor([0, 2, 2])
        """
        wrong = (concepts < -1) | (concepts >= self.num_concepts)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(f"concept {int(concepts[row])} in row {row} is not in -1 to {self.num_concepts - 1}")
        return torch.cat([self.concept_groups(), torch.tensor([TAIL])])[concepts]  # -1 takes the last

    def check_captions(self, captions: Sequence[str]) -> None:
        """Refuse training captions other than those this was made from; labels and counts only know how many.

        Raises:
            InputError: another number of captions, another order, or other captions.

        >>> ConceptDistribution.from_labels(["cup", "lamp"]).check_captions(["a cup", "a lamp"])
        """
        if len(captions) != len(self):
            raise InputError(
                f"these concepts were made from {len(self)} samples, but there are {len(captions)} captions; "
                "make them anew"
            )
        expected = self.provenance.get("captions_hash")
        if expected is not None and content_hash(*captions) != expected:
            raise InputError(
                f"these concepts were made from other captions than these {len(captions)}, or from the same in another "
                "order; make them anew"
            )

    def save(self, path: str | Path) -> None:
        """Write everything to an .npz file (no pickle), atomically.

        Raises:
            InputError: a label that is neither str, int, float, bool, None nor a tuple of these cannot be written.
        """
        meta: dict[str, Any] = {"format": FORMAT, "names": self.names, "provenance": self.provenance}
        arrays: dict[str, Any] = {"labels": self.labels.numpy(), "sizes": self.sizes.numpy()}
        if self._keys is not None:
            meta["keys"] = [encode_key(key) for key in self._keys]
        if self.centroids is not None:
            arrays["centroids"] = self.centroids.numpy()
        if isinstance(self._encoder, TfidfEncoder):
            meta["tfidf_vocabulary"] = self._encoder.vocabulary
            arrays |= {"tfidf_idf": self._encoder.idf, "tfidf_components": self._encoder.components}
        # ASCII JSON as bytes: it holds any string, lone surrogates included.
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode("ascii"), np.uint8)
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path, *, encoder: str | Path | EncoderFunction | None = None) -> "ConceptDistribution":
        """Read what `save` wrote.

        Args:
            path: The file.
            encoder: For `assign`, where the saved encoder was a function, or a model folder that has moved since.

        Raises:
            DataError: no such file, or not one that `save` wrote.

        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "concepts.npz"
        >>> ConceptDistribution.from_labels(["cup", ("lamp", 2)]).save(path)
        >>> ConceptDistribution.load(path).assign([("lamp", 2)])
        tensor([1])
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(arrays["meta"].tobytes())
            found = meta["format"]
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            why = "is a folder" if Path(path).is_dir() else why_missing(Path(path))
            raise DataError(f"{path} {why}; a file of concepts is wanted") from error
        except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
            raise DataError(f"{path}: not a file of concepts ({_first_line(error)})") from error
        if found != FORMAT:
            raise DataError(f"{path}: concepts of format {quoted(found)}; this version of mmts reads format {FORMAT}")
        try:
            keys = [decode_key(key) for key in meta["keys"]] if "keys" in meta else None
            opened: TextEncoder | None = None
            if encoder is not None:
                opened = open_encoder(encoder)
            elif "tfidf_vocabulary" in meta:
                opened = TfidfEncoder(meta["tfidf_vocabulary"], arrays["tfidf_idf"], arrays["tfidf_components"])
            _check_stored(arrays, meta, keys)
            return cls(
                torch.from_numpy(arrays["labels"]),
                torch.from_numpy(arrays["sizes"]),
                meta["names"],
                meta["provenance"],
                keys=keys,
                centroids=torch.from_numpy(arrays["centroids"]) if "centroids" in arrays else None,
                encoder=opened,
            )
        except KeyError as error:
            raise DataError(f"{path}: the file lacks {error}") from error
        except MmtsError:
            raise
        except Exception as error:
            raise DataError(f"{path}: not a file of concepts ({_first_line(error)})") from error

    def _open_encoder(self) -> TextEncoder:
        """Return the encoder the centroids were made with."""
        if "encoder" not in self.provenance:
            raise InputError(
                "these concepts were made from embeddings, and of what encoder is not known; give from_embeddings or "
                "from_clusters the `encoder`, or `assign` embeddings in place of captions"
            )
        made_with = str(self.provenance["encoder_fingerprint"])
        if self._encoder is None:
            if made_with.startswith("function "):
                raise InputError(
                    f"these concepts were made with the function {self.provenance['encoder']}, which no file can hold; "
                    "give it as ConceptDistribution.load(path, encoder=function)"
                )
            self._encoder = open_encoder(self.provenance["encoder"])
        # Nothing is known of a function but its name, so what is given is taken.
        if not isinstance(self._encoder, FunctionEncoder) and self._encoder.fingerprint != made_with:
            raise InputError(
                f"the encoder given ({self._encoder.fingerprint}) is not the one these concepts were made with "
                f"({self.provenance['encoder']}: {made_with}); make the concepts anew"
            )
        return self._encoder


def resolve_num_concepts(num_concepts: int | Literal["auto"], captions: Sequence[str]) -> int:
    """Return the number of concepts to look for: "auto" is min(200, distinct captions // 10), at least 2.

    Raises:
        InputError: not a positive whole number or "auto", or more than there are distinct captions.

    >>> resolve_num_concepts("auto", [f"caption {i}" for i in range(500)])
    50
    """
    distinct = len(set(captions))
    if num_concepts == "auto":
        chosen = max(2, min(200, distinct // 10))
    elif (
        hasattr(num_concepts, "__index__") and not isinstance(num_concepts, bool) and operator.index(num_concepts) >= 1
    ):
        chosen = operator.index(num_concepts)
    else:
        raise InputError(f'num_concepts is {num_concepts!r}; a positive whole number or "auto" is right')
    if num_concepts == "auto" and distinct < 2:
        raise InputError(f"all {len(captions)} captions are the same; concepts need at least 2 distinct ones")
    if chosen > distinct:
        raise InputError(f"num_concepts is {chosen}, but there are only {distinct} distinct captions")
    return chosen


def _check_stored(arrays: dict[str, Any], meta: dict[str, Any], keys: list[Hashable] | None) -> None:
    """Raise ValueError where what a file holds does not go together."""
    labels, sizes, centroids = arrays["labels"], arrays["sizes"], arrays.get("centroids")
    K = len(sizes)
    for name, array in (("labels", labels), ("sizes", sizes)):
        if array.ndim != 1 or array.dtype != np.int64:
            raise ValueError(f"{name} should be whole numbers in a row")
    if not K or sizes.min() < 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < K):
        raise ValueError("labels lie in [0, number of concepts), and every concept has a sample")
    if not isinstance(meta["names"], list) or len(meta["names"]) != K or (keys is not None and len(keys) != K):
        raise ValueError("there should be as many names as concepts")
    if not isinstance(meta["provenance"], dict):
        raise ValueError("it does not say where the concepts come from")  # noqa: TRY004 (of the file, not of an argument)
    if centroids is not None and not (
        centroids.ndim == 2 and len(centroids) == K and centroids.dtype == np.float32 and np.isfinite(centroids).all()
    ):
        raise ValueError("there should be one row of finite numbers for the centre of each concept")


def _about_encoder(name: str | Path | EncoderFunction | None, opened: TextEncoder) -> dict[str, str]:
    """Return what `provenance` keeps of an encoder."""
    shown = opened.name if isinstance(opened, FunctionEncoder) else str(name)
    return {"encoder": shown, "encoder_fingerprint": opened.fingerprint}


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in ("mmts", "torch", "numpy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _first_line(error: BaseException) -> str:
    return shortened((str(error).strip().splitlines() or [type(error).__name__])[0])
