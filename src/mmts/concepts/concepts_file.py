"""The file concepts.npz: arrays, and as JSON the names, the labels and where the concepts come from."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmts.concepts.encoders import EncoderName, TfidfEncoder, open_encoder
from mmts.concepts.members import OF, Members
from mmts.errors import DataError, InputError, MmtsError, first_line, quoted
from mmts.files import atomic_write, why_missing

if TYPE_CHECKING:
    from mmts.concepts.distribution import ConceptDistribution

FORMAT = 1


def write_concepts(path: str | Path, distribution: "ConceptDistribution") -> None:
    """Write a distribution, atomically and without pickle; a function as its encoder cannot be written."""
    keys, encoder = distribution.keys, distribution.encoder
    meta: dict[str, Any] = {"format": FORMAT, "names": distribution.names, "provenance": distribution.provenance}
    arrays: dict[str, Any] = {"labels": distribution.labels.numpy(), "sizes": distribution.sizes.numpy()}
    if keys is not None:
        meta["keys"] = [_encode_key(key) for key in keys]
    if distribution.several is not None:
        meta["of"] = distribution.of
        arrays |= {name: value.numpy() for name, value in distribution.several._asdict().items()}
    if distribution.centroids is not None:
        arrays["centroids"] = distribution.centroids.numpy()
    if isinstance(encoder, TfidfEncoder):
        meta["tfidf_vocabulary"] = encoder.vocabulary
        arrays |= {"tfidf_idf": encoder.idf, "tfidf_components": encoder.components}
    # ASCII JSON as bytes holds any string, even lone surrogates.
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode("ascii"), np.uint8)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_concepts(path: str | Path, encoder: EncoderName | None) -> dict[str, Any]:
    """Return the fields of a `ConceptDistribution` in a file; `encoder` replaces the one that it names."""
    if not Path(path).is_file():
        why = "is a folder" if Path(path).is_dir() else why_missing(Path(path))
        raise DataError(f"{path} {why}; it must be a file of concepts")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays["meta"].tobytes())
        _check_stored(path, arrays, meta)
        fields: dict[str, Any] = {"names": meta["names"], "provenance": meta["provenance"]}
        fields["keys"] = [_decode_key(key) for key in meta["keys"]] if "keys" in meta else None
        fields |= {name: torch.from_numpy(arrays[name]) for name in ("labels", "sizes", "centroids") if name in arrays}
        if "ids" in arrays:
            fields |= {"several": _checked_members(arrays, meta["of"]), "of": meta["of"]}
        if encoder is not None:
            fields["encoder"] = open_encoder(encoder)
        elif "tfidf_vocabulary" in meta:
            tables = arrays["tfidf_idf"], arrays["tfidf_components"]
            fields["encoder"] = TfidfEncoder(meta["tfidf_vocabulary"], *tables)
    except MmtsError:
        raise
    except KeyError as error:
        raise DataError(f"{path}: not a file of concepts (it lacks {error})") from error
    except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
        raise DataError(f"{path}: not a file of concepts ({first_line(error)})") from error
    return fields


def _check_stored(path: str | Path, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raise DataError if a file has another format, and ValueError if its contents do not fit together."""
    if meta["format"] != FORMAT:
        found = f"concepts of format {quoted(meta['format'])}"
        raise DataError(f"{path}: {found}; this version of mmts reads format {FORMAT}")
    labels, sizes, centroids = arrays["labels"], arrays["sizes"], arrays.get("centroids")
    K, names, keys = len(sizes), meta["names"], meta.get("keys")
    if not (_are_whole(labels, sizes) and K and sizes.min() > 0 and (not len(labels) or _are_ids(labels, K))):
        raise ValueError("labels must lie in [0, number of concepts), and every concept must have a sample")
    named = isinstance(names, list) and K == len(names) == len(names if keys is None else keys)
    if not named or not isinstance(meta["provenance"], dict) or (keys is None) == (centroids is None):
        raise ValueError("every concept must have a name, a source, and either a key or a centroid")
    if centroids is not None:
        is_table = centroids.ndim == 2 and len(centroids) == K and centroids.dtype == np.float32
        if not is_table or not np.isfinite(centroids).all():
            raise ValueError("every concept must have a centroid of finite numbers")


def _checked_members(arrays: dict[str, Any], of: Any) -> Members:
    """Return the concepts of samples with several; raise ValueError if sizes or labels are not those of them."""
    labels, sizes, offsets, ids = (arrays[name] for name in ("labels", "sizes", "offsets", "ids"))
    is_order = (
        _are_whole(offsets, ids) and len(offsets) == len(labels) + 1 and offsets[0] == 0 < offsets[-1] == len(ids)
    )
    if of not in OF or not is_order or not (np.diff(offsets) > 0).all() or not _are_ids(ids, len(sizes)):
        raise ValueError("every sample must have concepts, in [0, number of concepts), of which one decides")
    members = Members(*map(torch.from_numpy, (offsets, ids)))
    decided = members.deciding(torch.from_numpy(sizes), of).numpy()
    if not np.array_equal(np.bincount(ids, minlength=len(sizes)), sizes) or not np.array_equal(decided, labels):
        raise ValueError("the concepts of samples must have the sizes and labels of the file")
    return members


def _are_whole(*arrays: Any) -> bool:
    return all(array.ndim == 1 and array.dtype == np.int64 for array in arrays)


def _are_ids(array: Any, K: int) -> bool:
    return bool(0 <= array.min() <= array.max() < K)


def _encode_key(key: Hashable) -> list[Any]:
    """Return a label with its type: JSON alone would lose tuples and infinities."""
    if isinstance(key, tuple):
        return ["tuple", [_encode_key(part) for part in key]]
    if type(key) is float:
        return ["float", key.hex()]
    if key is None or type(key) in (str, bool, int):
        return [type(key).__name__, key]
    raise InputError(
        f"the label {key!r} is a {type(key).__name__}; only str, int, float, bool, None and tuples of them can be saved"
    )


def _decode_key(key: list[Any]) -> Hashable:
    kind, value = key
    if kind == "tuple":
        return tuple(_decode_key(part) for part in value)
    return float.fromhex(value) if kind == "float" else value
