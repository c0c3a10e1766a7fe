"""A run's two sides as ONNX graphs, with a description of the inputs that they take."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import RunError, shortened
from mmts.export.samples import captions_for, features_for, largest_difference, pixels_for
from mmts.export.tokenizer_file import build_tokenizer, check_tokenizer, token_arrays
from mmts.models import TwoTower
from mmts.models.text_towers import SmallTransformer

TOLERANCE = 1e-4
_OPSET = 17


def write_onnx(model: TwoTower, kind: str, folder: Path) -> dict[str, Any]:
    """Write the graphs and tokenizer.json into `folder`; return what export.json says about them.

    model: in evaluation mode, with its frozen towers. kind: "image" or "video". Each graph normalizes pixels itself and
    returns unit embeddings (B, D) for any B. `largest_difference` is measured with onnxruntime on made-up samples.
    Raises RunError if a graph cannot be made, or a difference is above `TOLERANCE`.
    """
    text = _write_text(model, folder)
    return {"format": "mmts-onnx-1", "media": _write_media(model, kind, text["width"], folder), "text": text}


def need_packages() -> None:
    """Raise RunError, naming what to install, if a package of the extra `export` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"--to onnx needs the packages onnx and onnxruntime ({error}): pip install onnx onnxruntime"
        ) from None


def _write_media(model: TwoTower, kind: str, width: int, folder: Path) -> dict[str, Any]:
    tower = model.media_tower
    if tower is None:
        kind, name, samples = "features", "features", features_for(model.media_head, width)
    else:
        name, samples = "pixels", pixels_for(tower)
    file = folder / f"{kind}.onnx"
    _trace(model, model.encode_media, {name: samples[:3]}, {0: "batch"}, file)
    with torch.no_grad():
        expected = model.encode_media(samples)
    content: dict[str, Any] = {
        "kind": kind,
        "file": file.name,
        "input": name,
        "shape": ["batch", *samples.shape[1:]],
        "width": expected.shape[1],
        "largest_difference": _compare(
            file, [({name: part}, expected[: len(part)]) for part in (samples, samples[:1])]
        ),
    }
    if tower is None:
        return content
    return content | {
        "values": "RGB from 0 to 1; the graph itself subtracts mean and divides by std",
        "size": tower.size,
        "resize": tower.resize,
        "interpolation": "bicubic",
        "mean": tower.mean.tolist(),
        "std": tower.std.tolist(),
        "sampling": None if tower.sampling is None else asdict(tower.sampling),
    }


def _write_text(model: TwoTower, folder: Path) -> dict[str, Any]:
    tower = model.text_tower
    assert tower is not None
    file, captions = folder / "text.onnx", captions_for(tower)
    tokenizer = build_tokenizer(tower)
    check_tokenizer(tokenizer, tower, captions)
    tokenizer.save(str(folder / "tokenizer.json"))
    expected_tokens = tower.tokenize(captions)
    names = list(expected_tokens)

    def encode(*tokens: Tensor) -> Tensor:
        return model.encode_text(dict(zip(names, tokens, strict=True)))

    def tokens_of(captions: Sequence[str]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(values) for name, values in token_arrays(tokenizer, captions).items()}

    samples = tokens_of(captions[:3])
    axes = {0: "batch"} if isinstance(tower, SmallTransformer) else {0: "batch", 1: "length"}
    _trace(model, encode, {name: samples[name] for name in names}, axes, file)
    with torch.no_grad():
        expected = model.encode_text(expected_tokens)
    parts = (slice(0, len(captions)), slice(3, 4))  # all of them, padded, and a short one alone
    return {
        "file": file.name,
        "tokenizer": "tokenizer.json",
        "inputs": [item.name for item in _session(file).get_inputs()],  # without those that change nothing
        "max_length": tower.max_length,
        "width": expected.shape[1],
        "largest_difference": _compare(file, [(tokens_of(captions[part]), expected[part]) for part in parts]),
    }


class _Graph(nn.Module):
    """A side of a model, for the tracer, which only takes modules."""

    def __init__(self, model: TwoTower, encode: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.encode(*inputs)


def _trace(
    model: TwoTower, encode: Callable[..., Tensor], samples: Mapping[str, Tensor], axes: dict[int, str], file: Path
) -> None:
    """Write `encode` as a graph by running it once on named samples; `axes` names the axes of free length.

    The older exporter needs no further package, is twenty times faster, and takes every tower.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every size that is a plain number
            torch.onnx.export(
                _Graph(model, encode).eval(), tuple(samples.values()), str(file), dynamo=False, opset_version=_OPSET,
                input_names=list(samples), output_names=["embeddings"],
                dynamic_axes=dict.fromkeys(samples, axes) | {"embeddings": {0: "batch"}},
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{file.name}: torch cannot write this side as ONNX: {shortened(first, 240)}") from None


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _compare(file: Path, samples: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> float:
    """Return the largest difference between a graph's embeddings and those expected for some inputs."""
    session = _session(file)
    names = [item.name for item in session.get_inputs()]
    differences = []
    for inputs, expected in samples:
        [embeddings] = session.run(None, {name: inputs[name].numpy() for name in names})
        differences.append(largest_difference(expected, torch.from_numpy(embeddings)))
    if not (worst := max(differences)) <= TOLERANCE:
        raise RunError(
            f"{file.name}: its embeddings differ from the run's by up to {worst:.1e}, more than {TOLERANCE:g}"
        )
    return worst
