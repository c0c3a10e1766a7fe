"""The file concepts.npz: arrays, and as JSON the names, the labels and where the concepts come from."""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.encoders import Encoder, EncoderName, TfidfEncoder, open_encoder
from mmts.errors import DataError, InputError, MmtsError, quoted, shortened
from mmts.files import atomic_write, why_missing

FORMAT = 1


def write_concepts(
    path: str | Path,
    labels: Tensor,
    sizes: Tensor,
    names: list[str],
    provenance: dict[str, Any],
    keys: list[Hashable] | None,
    centroids: Tensor | None,
    encoder: Encoder | None,
) -> None:
    """Write the attributes of a distribution, atomically and without pickle; a function cannot be written."""
    meta: dict[str, Any] = {"format": FORMAT, "names": names, "provenance": provenance}
    arrays: dict[str, Any] = {"labels": labels.numpy(), "sizes": sizes.numpy()}
    if keys is not None:
        meta["keys"] = [_encode_key(key) for key in keys]
    if centroids is not None:
        arrays["centroids"] = centroids.numpy()
    if isinstance(encoder, TfidfEncoder):
        meta["tfidf_vocabulary"] = encoder.vocabulary
        arrays |= {"tfidf_idf": encoder.idf, "tfidf_components": encoder.components}
    # ASCII JSON as bytes holds any string, even lone surrogates.
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode("ascii"), np.uint8)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_concepts(path: str | Path, encoder: EncoderName | None) -> dict[str, Any]:
    """Return the arguments of `ConceptDistribution` in a file; `encoder` replaces the one that it names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays["meta"].tobytes())
        _check_format(path, meta["format"])
        keys = [_decode_key(key) for key in meta["keys"]] if "keys" in meta else None
        _check_stored(arrays, meta, keys)
        opened: Encoder | None = None
        if encoder is not None:
            opened = open_encoder(encoder)
        elif "tfidf_vocabulary" in meta:
            opened = TfidfEncoder(meta["tfidf_vocabulary"], arrays["tfidf_idf"], arrays["tfidf_components"])
        return {
            "labels": torch.from_numpy(arrays["labels"]),
            "sizes": torch.from_numpy(arrays["sizes"]),
            "names": meta["names"],
            "provenance": meta["provenance"],
            "keys": keys,
            "centroids": torch.from_numpy(arrays["centroids"]) if "centroids" in arrays else None,
            "encoder": opened,
        }
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        why = "is a folder" if Path(path).is_dir() else why_missing(Path(path))
        raise DataError(f"{path} {why}; it must be a file of concepts") from error
    except MmtsError:
        raise
    except Exception as error:  # numpy and zipfile raise nearly anything on a damaged file
        reason = shortened((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise DataError(f"{path}: not a file of concepts ({reason})") from error


def _check_format(path: str | Path, version: Any) -> None:
    if version != FORMAT:
        raise DataError(f"{path}: concepts of format {quoted(version)}; this version of mmts reads format {FORMAT}")


def _check_stored(arrays: dict[str, Any], meta: dict[str, Any], keys: list[Hashable] | None) -> None:
    """Raise ValueError if the contents of a file do not fit together."""
    labels, sizes, centroids = arrays["labels"], arrays["sizes"], arrays.get("centroids")
    K = len(sizes)
    for name, array in (("labels", labels), ("sizes", sizes)):
        if array.ndim != 1 or array.dtype != np.int64:
            raise ValueError(f"{name} must be whole numbers in a row")
    if not K or sizes.min() < 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < K):
        raise ValueError("labels must lie in [0, number of concepts), and every concept must have a sample")
    if not isinstance(meta["names"], list) or len(meta["names"]) != K or (keys is not None and len(keys) != K):
        raise ValueError("every concept must have a name")
    if not isinstance(meta["provenance"], dict):
        raise ValueError("it does not say where the concepts come from")  # noqa: TRY004 (of the file, not of an argument)
    if centroids is not None and not (
        centroids.ndim == 2 and len(centroids) == K and centroids.dtype == np.float32 and np.isfinite(centroids).all()
    ):
        raise ValueError("every concept must have a centroid of finite numbers")


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
