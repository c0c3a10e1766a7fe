"""Loading Hugging Face models by name or local folder: offline from folders, no remote code, one clear error."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmts.console import console
from mmts.errors import DataError, InputError, RecipeError, counted, first_line, nearest
from mmts.files import read_json

T = TypeVar("T")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    tower: str  # what it is and its name as the user wrote it, for messages
    place: str  # the name or folder that transformers is given
    local: bool  # whether that is a folder
    hint: str = ""  # names what is built in, for messages


def find_source(name: str, what: str, built_in: Iterable[str] = ()) -> Source:
    """Tell a folder from a name on the hub; RecipeError if it is neither. what: such as "image tower"."""
    folder, tower = Path(name).expanduser(), f"{what} {name!r}"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{tower}: the folder has no config.json, so it is not a Hugging Face model")
        return Source(tower, str(folder), True)
    hint = f" (the built-in {what}s are {', '.join(built_in)})" if built_in else ""
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        raise RecipeError(f"{tower}: there is no such folder{hint}")
    if "/" not in name and (suggestion := nearest(name, built_in)).startswith("did you mean"):
        raise RecipeError(f"unknown {tower}; {suggestion}{hint}")
    return Source(tower, name, False, hint)


def is_cached(name: str) -> bool:
    """Return whether a model on the hub can be loaded from the local cache of Hugging Face, without any download."""
    settings = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
    return all(_in_cache(name, file) for file in settings) and any(_in_cache(name, file) for file in _WEIGHTS)


def _in_cache(name: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return isinstance(try_to_load_from_cache(name, file), str)
    except ValueError:  # no name that a model on the hub can have
        return False


def download_command(name: str) -> str:
    """Return the command that fetches a model."""
    return f"`hf download {name} --exclude '*.h5' --exclude '*.msgpack'`"


def check_at_hand(what: str, place: str, hint: str, files: Sequence[str] = ("config.json",)) -> None:
    """Raise RecipeError, with what to do, if a name is not in the local cache and the hub cannot be reached.

    Without this, transformers would try for a minute. files: one of them shows that a model is in the cache.
    """
    from huggingface_hub import constants, get_session

    if any(_in_cache(place, file) for file in files):
        return
    try:
        get_session().head(f"{constants.ENDPOINT}/{place}/resolve/main/config.json", timeout=10)
    except Exception as error:  # whatever the library for HTTP raises; also in the hub's offline mode
        why = "" if constants.HF_HUB_OFFLINE else f" ({first_line(error)})"
        command = download_command(place).replace("hf download", "hf download --local-dir FOLDER")
        raise RecipeError(
            f"{what} is not a folder and not in the local cache of Hugging Face, which cannot be reached from "
            f"here{why}: call {command} where there is a network, and give the folder in place of the name{hint}"
        ) from None
    console.print(f"note: {what} is not in the local cache; fetching it from Hugging Face")


def call(source: Source, what: str, function: Callable[..., T], **options: Any) -> T:
    """Call one of transformers' `from_pretrained` quietly; any failure becomes one RecipeError."""
    if not source.local:
        check_at_hand(source.tower, source.place, source.hint)
    try:
        with quiet():
            return function(source.place, local_files_only=source.local, trust_remote_code=False, **options)
    except Exception as error:  # whatever a third party raises on bad files, names or networks
        where = "from this folder" if source.local else "of that name from Hugging Face"
        raise RecipeError(f"{source.tower}: cannot load the {what} {where}: {first_line(error)}{source.hint}") from None


def load_model(source: Source) -> tuple[Any, bool]:
    """Return the model in float32 and evaluation mode, and whether its files lack the weights of its pooler.

    Raises RecipeError if any other weight is missing: such a model would compute with random numbers.
    """
    from transformers import AutoModel

    model, info = call(source, "model", AutoModel.from_pretrained, dtype=torch.float32, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
    if missing:
        lacks = f"lack {counted(len(missing), 'weight')}, such as {missing[0]!r}"
        raise RecipeError(f"{source.tower}: its files {lacks}")
    return model.eval(), bool(info["missing_keys"])


def shared_copy(model: Any) -> Any:
    """Return a model that shares all weights with `model`, and from which parts can be removed (see `keep_side`)."""
    result = copy.copy(model)
    result._modules, result._parameters = dict(model._modules), dict(model._parameters)
    return result


def drop_parts(model: Any, drops: Callable[[str], bool]) -> None:
    """Remove the children and parameters of a model whose names `drops` says yes to."""
    for name, _ in [*model.named_children(), *model.named_parameters(recurse=False)]:
        if drops(name):
            delattr(model, name)


def keep_side(model: Any, side: str, *, own_pooling: bool) -> bool:
    """Return whether `model` embeds images and texts, as CLIP and SigLIP do; remove its other half if it does.

    Raises InputError for a model that does not have this side, and for a pooling that a CLIP or SigLIP cannot have.
    """
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        expected, what = ("pixel_values", "images") if side == "image" else ("input_ids", "text")
        if getattr(model, "main_input_name", "") != expected:
            raise InputError(f"a {model.config.model_type} model takes no {what}")
        return False
    if not own_pooling:
        raise InputError("a CLIP or SigLIP has its own pooling; leave the option pooling out")
    others = ("text",) if side == "image" else ("vision", "visual", "image")
    drop_parts(model, lambda name: name.startswith((*others, "logit")))
    return True


def encodable(captions: Sequence[str]) -> list[str]:
    """Replace lone surrogates, which cannot be encoded and which tokenizers refuse."""
    return [caption.encode("utf-8", "replace").decode("utf-8") for caption in captions]


def tokenizer_contents(tokenizer: Any) -> str:
    """Return all that determines the ids that a tokenizer gives."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))


@dataclass(frozen=True)
class Preprocessing:
    """What an image model expects: side in pixels, mean and std of pixels in [0, 1], how a rectangle becomes square."""

    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = "crop"

    def to_config(self) -> dict[str, Any]:
        """Return the settings of the closest image processor of transformers, as `read_preprocessing` reads them."""
        side, crops = {"height": self.size, "width": self.size}, self.resize == "crop"
        return {
            "do_resize": True,
            "size": {"shortest_edge": self.size} if crops else side,
            "resample": 3,  # bicubic
            "do_center_crop": crops,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def read_preprocessing(source: Source) -> Preprocessing:
    """Read preprocessor_config.json, or the image part of processor_config.json; without a file, return the defaults.

    If a processor resizes to more than it crops (256, then 224), only the crop is followed: a little more is seen.
    """
    try:
        whole = _settings(source, "processor_config.json")
        part = whole.get("image_processor") if isinstance(whole, dict) else None
        config = part or _settings(source, "preprocessor_config.json")
        return _preprocessing(config) if config else Preprocessing()
    except (OSError, TypeError, ValueError, DataError) as error:
        raise RecipeError(f"{source.tower}: its preprocessing: {first_line(error)}") from None


def _settings(source: Source, name: str) -> Any:
    """Return the content of a JSON file of a model, or None without it."""
    from transformers.utils import cached_file  # get_image_processor_config overlooks one of the files in 5.0 to 5.14

    file = Path(source.place) / name
    if source.local:
        return read_json(file) if file.exists() else None
    with quiet(), suppress(OSError):
        return read_json(cached_file(source.place, name))
    return None


def _preprocessing(config: Any) -> Preprocessing:
    if not isinstance(config, dict):
        raise InputError("it is not a JSON object")
    if config.get("do_flip_channel_order"):
        raise InputError("it expects colors in the order BGR, which mmts does not have")
    crops = bool(config.get("do_center_crop")) and bool(config.get("crop_size"))
    size, square = _side(config.get("crop_size") if crops else config.get("size"))
    # Pixels come in [0, 1]; a processor's mean and std apply to value * rescale_factor of pixels in [0, 255].
    scale = 255 * float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255.0
    normalize = config.get("do_normalize", True)
    mean = config.get("image_mean") or IMAGENET_MEAN if normalize else (0.0, 0.0, 0.0)
    std = config.get("image_std") or IMAGENET_STD if normalize else (1.0, 1.0, 1.0)
    mean, std = (values if isinstance(values, list | tuple) else [values] * 3 for values in (mean, std))
    mean, std = (tuple(float(value) / scale for value in values) for values in (mean, std))
    if not all(value > 0 for value in std):
        raise InputError(f"image_std is {config.get('image_std')}, and has to be positive")
    return Preprocessing(size, mean, std, "stretch" if square and not crops else "crop")


def _side(stated: Any) -> tuple[int | None, bool]:
    """Return the side in pixels, if stated, and whether both sides are, so that the image is stretched."""
    if not isinstance(stated, dict):
        return (int(stated), True) if stated else (None, False)
    if "shortest_edge" in stated:
        return int(stated["shortest_edge"]), False
    width, height = stated.get("width"), stated.get("height")
    if width is None or height is None:
        return None, False
    if width != height:
        raise InputError(f"it makes images of {width}x{height} pixels; mmts makes only square ones")
    return int(height), True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, logs and loading reports off the terminal; errors are raised all the same."""
    from transformers.utils import logging as transformers_logging

    before, bars = logging.root.manager.disable, transformers_logging.is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        if bars:
            transformers_logging.enable_progress_bar()
