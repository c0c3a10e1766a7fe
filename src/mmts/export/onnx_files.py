"""A run's two sides as ONNX graphs, with what has to happen to pictures and sentences before."""

import warnings
from collections.abc import Sequence
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


class _Media(nn.Module):
    """Pixels or feature rows to unit embeddings, as a graph of one input."""

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, media: Tensor) -> Tensor:
        return self.model.encode_media(media)


class _Text(nn.Module):
    """Tokens to unit embeddings, as a graph of one input a name."""

    def __init__(self, model: TwoTower, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)

    def forward(self, *tokens: Tensor) -> Tensor:
        return self.model.encode_text(dict(zip(self.names, tokens, strict=True)))


def write_onnx(model: TwoTower, kind: str, folder: Path) -> dict[str, Any]:
    """Write the graphs and tokenizer.json into `folder`; return what export.json says of them.

    model: in evaluation mode, frozen towers and all. kind: "image" or "video". Each graph normalises pixels itself and
    gives unit embeddings (B, D), B free. Its `largest_difference` is measured with onnxruntime on made-up samples.
    Raises RunError where a package is missing, a graph cannot be made, or a difference is above `TOLERANCE`.
    """
    need_packages()
    text = _write_text(model, folder)
    return {"format": "mmts-onnx-1", "media": _write_media(model, kind, text["width"], folder), "text": text}


def need_packages() -> None:
    """Raise RunError, naming what to install, where a package of the extra `export` is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"--to onnx needs the packages onnx and onnxruntime ({error}): pip install onnx onnxruntime"
        ) from None


def _write_media(model: TwoTower, kind: str, width: int, folder: Path) -> dict[str, Any]:
    tower = model.media_tower
    name, samples = ("features", features_for(model.media_head, width)) if tower is None else (kind, pixels_for(tower))
    file = f"{name}.onnx"
    input_name = "features" if tower is None else "pixels"
    _trace(_Media(model), (samples[:3],), [input_name], {input_name: {0: "batch"}}, folder / file)
    with torch.no_grad():
        own = model.encode_media(samples)
    difference = max(
        largest_difference(own[: len(part)], _run(folder / file, {input_name: part})) for part in (samples, samples[:1])
    )
    content: dict[str, Any] = {
        "kind": name, "file": file, "input": input_name, "shape": ["batch", *samples.shape[1:]], "width": own.shape[1],
        "largest_difference": _within(difference, file),
    }  # fmt: skip
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
    captions = captions_for(tower)
    tokenizer = build_tokenizer(tower)
    check_tokenizer(tokenizer, tower, captions)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = list(tower.tokenize(captions))
    arrays = token_arrays(tokenizer, captions[:3])
    axes = {0: "batch"} if isinstance(tower, SmallTransformer) else {0: "batch", 1: "length"}
    samples = tuple(torch.from_numpy(arrays[name]) for name in names)
    _trace(_Text(model, names), samples, names, dict.fromkeys(names, axes), folder / "text.onnx")
    with torch.no_grad():
        own = model.encode_text(tower.tokenize(captions))
    difference = 0.0
    for at in (slice(0, len(captions)), slice(3, 4)):  # all of them, padded, and a short one by itself
        tokens = {name: torch.from_numpy(values) for name, values in token_arrays(tokenizer, captions[at]).items()}
        difference = max(difference, largest_difference(own[at], _run(folder / "text.onnx", tokens)))
    return {
        "file": "text.onnx",
        "tokenizer": "tokenizer.json",
        "inputs": _inputs(folder / "text.onnx"),
        "max_length": tower.max_length,
        "width": own.shape[1],
        "largest_difference": _within(difference, "text.onnx"),
    }


def _trace(
    graph: nn.Module, samples: tuple[Tensor, ...], names: list[str], axes: dict[str, dict[int, str]], file: Path
) -> None:
    """Write a graph by running it once.

    By the older exporter: it needs no package more, is twenty times faster, and takes every tower there is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every size that is a plain number
            torch.onnx.export(
                graph.eval(), samples, str(file), input_names=names, output_names=["embeddings"],
                dynamic_axes=axes | {"embeddings": {0: "batch"}}, opset_version=_OPSET, dynamo=False,
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"{file.name}: torch cannot write this side as ONNX: {shortened(first, 240)}") from None


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _inputs(file: Path) -> list[str]:
    """Return the inputs that a graph kept: those that change nothing are dropped."""
    return [each.name for each in _session(file).get_inputs()]


def _run(file: Path, inputs: dict[str, Tensor]) -> Tensor:
    session = _session(file)
    taken = {each.name: inputs[each.name].numpy() for each in session.get_inputs()}
    return torch.from_numpy(session.run(None, taken)[0])


def _within(difference: float, file: str) -> float:
    if not difference <= TOLERANCE:
        raise RunError(
            f"{file}: its embeddings differ from the run's by up to {difference:.1e}, more than {TOLERANCE:g}"
        )
    return difference
