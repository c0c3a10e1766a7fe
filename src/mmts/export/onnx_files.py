"""A run's two sides as ONNX graphs, with a description of the inputs that they take."""

import copy
import sys
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmts.data.media.image import fit_square, to_pixels
from mmts.errors import RunError, first_line
from mmts.models import TwoTower
from mmts.models.base import MediaTower, TextTower
from mmts.models.clip_text import ByteTokenizer, ClipText
from mmts.models.text_towers import HuggingFaceText, SmallTransformer

TOLERANCE = 1e-4
_OPSET = 17
_CAPTIONS = (
    "a photo of a red shoe",
    "Two men, one with a GREEN hat, repair a bicycle in the street.",
    "l'été à Zürich: 3 cafés, 12 €",
    "dog",
    "a blue cup on a white table beside a window with flowers, " * 20,  # longer than towers accept
)


def write_onnx(model: TwoTower, kind: str, folder: Path) -> dict[str, Any]:
    """Write the graphs and tokenizer.json into `folder`; return what export.json says about them.

    model: in evaluation mode, with its frozen towers. kind: "image" or "video". Each graph normalizes pixels itself and
    returns unit embeddings (B, D) for any B. Raises RunError if it cannot be made, or differs from the run.
    """
    text = _write_text(model, folder)
    return {"format": "mmts-onnx-1", "media": _write_media(model, kind, text["width"], folder), "text": text}


def _write_media(model: TwoTower, kind: str, width: int, folder: Path) -> dict[str, Any]:
    tower = model.media_tower
    if tower is None:
        kind, name = "features", "features"
        first = next(model.media_head.parameters(), None)  # of a norm (W,) or a linear layer (D, W)
        in_width = width if first is None else first.shape[-1]
        samples = torch.randn(5, in_width, generator=torch.Generator().manual_seed(0))
    else:
        name, frames = "pixels", tower.frames or 1
        samples = to_inputs(pictures(*[(60 + 7 * number, 80) for number in range(5 * frames)]), tower)
        samples = samples if tower.frames is None else samples.reshape(5, frames, *samples.shape[1:])
    file = folder / f"{kind}.onnx"
    _trace(model, model.encode_media, {name: samples[:3]}, {0: "batch"}, file)
    with torch.no_grad():
        expected = model.encode_media(samples)
    content = {"kind": kind, "file": file.name, "input": name, "shape": ["batch", *samples.shape[1:]]}
    content |= _compare(file, [({name: samples}, expected), ({name: samples[:1]}, expected[:1])])
    if tower is None:
        return content
    return content | {"values": "RGB from 0 to 1; the graph itself subtracts mean and divides by std"}


def pixel_settings(tower: MediaTower) -> dict[str, Any]:
    """Return what export.json says about the pixels that a tower takes, and how pictures are resized to them."""
    return {
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
    tokens = tower.tokenize(captions)
    samples = _tokens(tokenizer, captions[:3])

    def encode(*inputs: Tensor) -> Tensor:
        return model.encode_text(dict(zip(tokens, inputs, strict=True)))

    axes = {0: "batch"} if isinstance(tower, SmallTransformer) else {0: "batch", 1: "length"}
    _trace(model, encode, {name: samples[name] for name in tokens}, axes, file)
    with torch.no_grad():
        expected = model.encode_text(tokens)
    parts = (slice(0, len(captions)), slice(3, 4))  # all of them, padded, and a short one alone
    return {
        "file": file.name,
        "tokenizer": "tokenizer.json",
        "inputs": [item.name for item in _session(file).get_inputs()],  # without those that change nothing
        "max_length": tower.max_length,
        **_compare(file, [(_tokens(tokenizer, captions[part]), expected[part]) for part in parts]),
    }


def _trace(
    model: TwoTower, encode: Callable[..., Tensor], samples: Mapping[str, Tensor], axes: dict[int, str], file: Path
) -> None:
    """Write `encode` as a graph by running it once on named samples; `axes` names the axes of free length."""
    graph = nn.ModuleList([model]).eval()  # the tracer only takes modules
    graph.forward = encode
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every size that is a plain number
            # The older exporter needs no further package, is twenty times faster, and takes every tower.
            torch.onnx.export(
                graph, tuple(samples.values()), str(file), dynamo=False, opset_version=_OPSET,
                input_names=list(samples), output_names=["embeddings"],
                dynamic_axes=dict.fromkeys(samples, axes) | {"embeddings": {0: "batch"}},
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{file.name}: torch cannot write this side as ONNX: {first_line(error)}") from None


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _compare(file: Path, samples: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> dict[str, Any]:
    """Return the width of a graph's embeddings, and their largest difference from those expected for some inputs."""
    session, worst = _session(file), 0.0
    for inputs, expected in samples:
        [embeddings] = session.run(None, {item.name: inputs[item.name].numpy() for item in session.get_inputs()})
        worst = max(worst, difference(file.name, expected, torch.from_numpy(embeddings), TOLERANCE))
    return {"width": expected.shape[1], "largest_difference": worst}


# --- tokenizers, as files of the library `tokenizers` ----------------------------------------------------------------


def build_tokenizer(tower: TextTower) -> Any:
    """Return a `tokenizers.Tokenizer` that cuts and pads like the tower. Raises RunError if there cannot be one."""
    if isinstance(tower, SmallTransformer):
        tokenizer = _of_words(tower)
    elif isinstance(tower, ClipText):
        inner: Any = tower.tokenizer
        tokenizer = inner.backend() if isinstance(inner, ByteTokenizer) else _backend(tower, inner.tokenizer)
        tokenizer.enable_padding(pad_id=0)
    elif isinstance(tower, HuggingFaceText):
        own = tower.tokenizer
        tokenizer = _backend(tower, own)
        padding = {"direction": own.padding_side, "pad_id": own.pad_token_id, "pad_token": own.pad_token}
        tokenizer.enable_padding(**padding, length=tower.max_length if tower.pad_full else None)
    else:
        raise RunError(f"the text tower {tower.name!r} has no tokenizer that can be written to a file")
    tokenizer.enable_truncation(tower.max_length)
    return tokenizer


def check_tokenizer(tokenizer: Any, tower: TextTower, captions: Sequence[str]) -> None:
    """Raise RunError if a written tokenizer does not give the tower's own ids."""
    written = _tokens(tokenizer, captions)
    for name, values in tower.tokenize(captions).items():
        length = values.shape[1]
        if not torch.equal(written[name][:, :length], values) or written["attention_mask"][:, length:].any():
            raise RunError(f"the written tokenizer of the text tower {tower.name!r} gives other {name} than the tower")


def _tokens(tokenizer: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """Return the inputs of an exported text tower, each (B, L): ids, mask and type ids."""
    rows = tokenizer.encode_batch(list(captions))
    names = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: torch.tensor([getattr(row, own) for row in rows]) for name, own in names.items()}


def _of_words(tower: SmallTransformer) -> Any:
    """Return a tokenizer that does what `split_words` and the vocabulary do."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    numbers = {"[PAD]": 0, "[START]": 1, "[UNK]": 2}
    numbers |= {word: at + 3 for at, word in enumerate(tower.vocabulary.words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    # str.casefold also changes letters that are lower case, such as the German sharp s.
    letters = (chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    lower = (letter for letter in letters if letter == letter.lower() != letter.casefold())
    folded = [normalizers.Replace(x, x.casefold()) for x in lower if unicodedata.is_normalized("NFKC", x)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *folded])
    # Python's \w and \s: those of `tokenizers` count accents as letters, and do not count four characters as spaces.
    words = Regex(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 1)])
    # Always the full length: the graph of torch's own attention keeps the length that it was traced with.
    tokenizer.enable_padding(pad_id=0, length=tower.max_length)
    return tokenizer


def _backend(tower: TextTower, tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise RunError(
            f"the text tower {tower.name!r} has a tokenizer written in Python ({type(tokenizer).__name__}), which a "
            "file of the library tokenizers cannot express"
        )
    return copy.deepcopy(backend)


# --- made-up captions and pictures, on which an export is compared with its run --------------------------------------


def captions_for(tower: TextTower) -> list[str]:
    """Return captions, at least one of them with words that the tower knows."""
    known = [" ".join(tower.vocabulary.words[:6])] if isinstance(tower, SmallTransformer) else []
    return [*_CAPTIONS, *known]


def pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Return a smooth picture with many colors for each (width, height), always the same."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size) for size in sizes]


def to_inputs(images: list[Image.Image], tower: MediaTower) -> Tensor:
    """Return images as the pixels (B, 3, size, size) that a tower accepts, in [0, 1]."""
    return torch.stack([to_pixels(fit_square(image, tower.size, tower.resize)) for image in images])


def difference(what: str, own: Tensor, exported: Tensor, most: float) -> float:
    """Return the largest difference of an export's embeddings from the run's own. Raises RunError above `most`."""
    worst = float((own.double() - exported.double()).abs().max())
    if not worst <= most:  # also for NaN
        raise RunError(f"{what}: its embeddings differ from the run's by up to {worst:.1e}, more than {most:g}")
    return worst
