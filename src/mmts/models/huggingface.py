"""Loading Hugging Face models by name or local folder: offline from folders, no remote code, one clear error."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
# What the weights and other files of well-known pairs take on disk.
_GIGABYTES = {
    "openai/clip-vit-base-patch32": 0.6,
    "openai/clip-vit-base-patch16": 0.6,
    "openai/clip-vit-large-patch14": 1.7,
    "google/siglip-base-patch16-224": 0.8,
    "google/siglip-so400m-patch14-384": 3.5,
}


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    name: str  # as the user wrote it
    place: str  # the name or folder that transformers is given
    local: bool  # whether that is a folder
    side: str  # "image", "video" or "text", for messages
    built_in: tuple[str, ...] = ()  # the names of that side's built-in towers, for messages


def find_source(name: str, side: str, built_in: Iterable[str] = ()) -> Source:
    """Tell a folder from a name on the hub. Raises RecipeError, naming the built-in towers, if it is neither."""
    folder, built_in, tower = Path(name).expanduser(), tuple(built_in), f"{side} tower {name!r}"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise RecipeError(f"{tower}: the folder has no config.json, so it is not a Hugging Face model")
        return Source(name, str(folder), True, side, built_in)
    hint = f"the built-in {side} towers are {', '.join(built_in)}"
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        raise RecipeError(f"{tower}: there is no such folder" + (f"; {hint}" if built_in else ""))
    suggestion = nearest(name, built_in)
    if "/" not in name and suggestion.startswith("did you mean"):
        raise RecipeError(f"unknown {tower}; {suggestion} ({hint})")
    return Source(name, name, False, side, built_in)


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
    """Return the command that fetches a model, and its size if it is known.

    >>> download_command("openai/clip-vit-base-patch32")
    "`hf download openai/clip-vit-base-patch32 --exclude '*.h5' --exclude '*.msgpack'` (0.6 GB)"
    """
    size = f" ({_GIGABYTES[name]} GB)" if name in _GIGABYTES else ""
    return f"`hf download {name} --exclude '*.h5' --exclude '*.msgpack'`{size}"


def check_at_hand(what: str, places: Sequence[str], hint: str, files: Sequence[str] = ("config.json",)) -> None:
    """Raise RecipeError, with what to do, if none of the names is in the local cache and the hub cannot be reached.

    If the hub can be reached, a note says that the model is fetched.

    Without this, transformers would try for a minute. what: the model in words. hint: what to say about models
    that need no network. files: one of them shows that a model is in the cache.
    """
    from huggingface_hub import constants, get_session

    if any(_in_cache(place, file) for place in places for file in files):
        return
    try:
        get_session().head(f"{constants.ENDPOINT}/{places[0]}/resolve/main/config.json", timeout=10)
    except Exception as error:  # whatever the library for HTTP raises; also in the hub's offline mode
        why = "" if constants.HF_HUB_OFFLINE else f" ({first_line(error)})"
        command = download_command(places[0]).replace("hf download", "hf download --local-dir FOLDER")
        raise RecipeError(
            f"{what} is not a folder and not in the local cache of Hugging Face, which cannot be reached from "
            f"here{why}: call {command} where there is a network, and give the folder in place of the name{hint}"
        ) from None
    console.print(f"note: {what} is not in the local cache; fetching it from Hugging Face")


def call(source: Source, what: str, function: Callable[..., T], **options: Any) -> T:
    """Call one of transformers' `from_pretrained` quietly; any failure becomes one RecipeError."""
    if not source.local:
        hint = f" (the built-in {source.side} towers are {', '.join(source.built_in)})" if source.built_in else ""
        check_at_hand(f"{source.side} tower {source.name!r}", [source.place], hint)
    try:
        with quiet():
            return function(source.place, local_files_only=source.local, trust_remote_code=False, **options)
    except Exception as error:  # whatever a third party raises on bad files, names or networks
        tower, reason = f"{source.side} tower {source.name!r}", first_line(error)
        if source.local:
            raise RecipeError(f"{tower}: cannot load the {what} from this folder: {reason}") from None
        built_in = f"it is not built in ({', '.join(source.built_in)}), " if source.built_in else ""
        raise RecipeError(
            f"unknown {tower}: {built_in}there is no such folder, and Hugging Face gave no {what} of that name: "
            f"{reason}"
        ) from None


def load_model(source: Source) -> tuple[Any, bool]:
    """Return the model in float32 and evaluation mode, and whether its files lack the weights of its pooler.

    Raises RecipeError if any other weight is missing: such a model would compute with random numbers.
    """
    from transformers import AutoModel

    model, info = call(source, "model", AutoModel.from_pretrained, dtype=torch.float32, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key.split("."))
    if missing:
        lacks = f"lack {counted(len(missing), 'weight')}, such as {missing[0]!r}"
        raise RecipeError(f"{source.side} tower {source.name!r}: its files {lacks}")
    return model.eval(), bool(info["missing_keys"])


def shared_copy(model: Any) -> Any:
    """Return a model that shares all weights with `model`, and from which parts can be removed (see `keep_side`)."""
    result = copy.copy(model)
    result._modules, result._parameters = dict(model._modules), dict(model._parameters)
    return result


def keep_side(model: Any, side: str, *, own_pooling: bool) -> bool:
    """Return whether `model` embeds images and texts, as CLIP and SigLIP do; remove its other half if it does.

    The temperature is removed too. Raises InputError for a model that does not have this side, and for a pooling that
    a CLIP or SigLIP cannot have.
    """
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        expected, what = ("pixel_values", "images") if side == "image" else ("input_ids", "text")
        if getattr(model, "main_input_name", "") != expected:
            raise InputError(f"a {model.config.model_type} model takes no {what}")
        return False
    if not own_pooling:
        raise InputError("a CLIP or SigLIP has its own pooling; leave the option pooling out")
    others = ("text",) if side == "image" else ("vision", "visual", "image")
    for name, _ in [*model.named_children(), *model.named_parameters(recurse=False)]:
        if name.startswith((*others, "logit")):
            delattr(model, name)
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


def read_preprocessing(source: Source) -> Preprocessing:
    """Read preprocessor_config.json, or the image part of processor_config.json; without a file, return the defaults.

    If a processor resizes to more than it crops (256, then 224), only the crop is followed: a little more is seen.
    """
    try:
        whole = _settings(source, "processor_config.json")
        config = (isinstance(whole, dict) and whole.get("image_processor")) or _settings(
            source, "preprocessor_config.json"
        )
    except (OSError, DataError) as error:
        raise RecipeError(f"image tower {source.name!r}: its preprocessing: {first_line(error)}") from None
    if not config:
        return Preprocessing()
    if not isinstance(config, dict):
        raise RecipeError(f"image tower {source.name!r}: its preprocessing is not a JSON object")
    if config.get("do_flip_channel_order"):
        raise RecipeError(f"image tower {source.name!r} expects colors in the order BGR, which mmts does not have")
    try:
        return _preprocessing(source, config)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"image tower {source.name!r}: its preprocessing: {first_line(error)}") from None


def _settings(source: Source, name: str) -> Any:
    """Return the content of a JSON file of a model, or None without it.

    transformers 5.0 to 5.14 has a function for this that never reads preprocessor_config.json.
    """
    from transformers.utils import cached_file

    file = Path(source.place) / name
    try:
        with quiet():
            return read_json(file if source.local else cached_file(source.place, name))
    except OSError:
        if source.local and file.exists():
            raise
        return None


def _preprocessing(source: Source, config: dict[str, Any]) -> Preprocessing:
    crops = bool(config.get("do_center_crop")) and bool(config.get("crop_size"))
    size, square = _side(source, config.get("crop_size") if crops else config.get("size"))
    # Pixels come in [0, 1]; a processor's mean and std apply to value * rescale_factor of pixels in [0, 255].
    scale = 255 * float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 255.0
    normalize = config.get("do_normalize", True)
    mean = config.get("image_mean") or IMAGENET_MEAN if normalize else (0.0, 0.0, 0.0)
    std = config.get("image_std") or IMAGENET_STD if normalize else (1.0, 1.0, 1.0)
    mean, std = (values if isinstance(values, list | tuple) else [values] * 3 for values in (mean, std))
    mean, std = (tuple(float(value) / scale for value in values) for values in (mean, std))
    if not all(value > 0 for value in std):
        raise ValueError(f"image_std is {config.get('image_std')}, and has to be positive")
    return Preprocessing(size, mean, std, "stretch" if square and not crops else "crop")


def _side(source: Source, stated: Any) -> tuple[int | None, bool]:
    """Return the side in pixels, if stated, and whether both sides are, so that the image is stretched."""
    if not isinstance(stated, dict):
        return (int(stated), True) if stated else (None, False)
    if "shortest_edge" in stated:
        return int(stated["shortest_edge"]), False
    if not {"height", "width"} <= stated.keys():
        return None, False
    if stated["height"] != stated["width"]:
        shape = f"{stated['width']}x{stated['height']}"
        raise RecipeError(f"image tower {source.name!r} takes images of {shape} pixels; mmts makes only square ones")
    return int(stated["height"]), True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and loading reports off the terminal; errors are raised all the same."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub = logging.getLogger("huggingface_hub")
    hub_level = hub.level
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()
