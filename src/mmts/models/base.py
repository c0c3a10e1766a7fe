"""The base classes of towers, and a function that makes a tower from its class and arguments."""

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from mmts.data.media.video import FrameSampling
from mmts.errors import InputError, MmtsError, RecipeError, nearest, quoted
from mmts.files import content_hash
from mmts.models.blocks import Checkpointed

Resize = Literal["stretch", "crop", "pad"]
"""How a rectangle becomes a square, see `mmts.data.media.image.fit_square`."""
Sampling = Literal["uniform", "random", "stride"]
"""Which frames of a video make a clip, see `mmts.data.media.video.FrameSampling`."""
GIVEN_BY_RUN = ("name", "size", "frames", "sampling", "stride", "vocabulary", "pretrained")
"""Parameters of a tower's constructor that are not its options: the run gives them, or a key beside `options`."""

AnyTower = TypeVar("AnyTower", bound="Tower")


class Tower(nn.Module):
    """One side's inputs to feature rows (B, width).

    The parameters of a tower's constructor are its options in a recipe, except those in GIVEN_BY_RUN. The constructor
    raises InputError for options that contradict each other.

    Attributes:
        name: its name in a recipe.
        width: number of features in a row.
        from_scratch: whether its weights start at random, so that freezing it makes no sense.
    """

    name: str
    width: int
    from_scratch: bool = False
    arguments: Mapping[str, Any] = {}
    """What `make_tower` gave the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__

    @property
    def fingerprint(self) -> str:
        """The name and a hash of the present weights and of all else that determines the features."""
        return f"{self.name}-{content_hash(*self._settings(), *outside_settings(self), hash_weights(self))}"

    def _settings(self) -> tuple[str, ...]:
        """Return the settings that change the features, apart from the weights."""
        return ()

    def freeze(self) -> None:
        """Stop training the tower: evaluation mode, no gradients."""
        self.requires_grad_(False).eval()

    def enable_gradient_checkpointing(self) -> None:
        """Keep only the inputs of each block for the backward pass, and compute the rest again then.

        This takes less memory and about a third more time; the gradients are the same. Raises RecipeError if the tower
        has no blocks that can do it.
        """
        blocks = [module for module in self.modules() if isinstance(module, Checkpointed)]
        if not blocks:
            raise RecipeError(
                f"tower {self.name!r} cannot checkpoint its gradients; set gradient_checkpointing to false"
            )
        for block in blocks:
            block.checkpointing = True


class MediaTower(Tower):
    """Images or clips, with values in [0, 1], to feature rows (B, width); it normalizes the pixels itself.

    Attributes:
        size: side of the square input in pixels.
        mean: (3,) subtracted from each color.
        std: (3,) by which each color is divided.
        resize: how a rectangle becomes that square.
        frames: F, number of frames in a clip; None for images.
        sampling: which frames of a video make a clip; None for images.
    """

    mean: Tensor
    std: Tensor
    frames: int | None = None
    sampling: FrameSampling | None = None

    def __init__(
        self,
        size: int,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        resize: str = "stretch",
    ) -> None:
        super().__init__()
        self.size = size
        self.resize = resize
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device="cpu"), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of images (B, 3, size, size) or clips (B, F, 3, size, size).

        Raises InputError for another shape.
        """
        clip = () if self.frames is None else (self.frames,)
        expected = (*clip, 3, self.size, self.size)
        if pixels.shape[1:] != expected:
            raise InputError(
                f"tower {self.name!r} takes {'clips' if clip else 'images'} of shape "
                f"(B, {', '.join(map(str, expected))}), not {tuple(pixels.shape)}"
            )
        return self.features(self.normalized(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of normalized pixels; every tower writes this."""
        raise NotImplementedError

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return pixels (..., 3, size, size), in [0, 1] or uint8, minus the mean, divided by the standard deviation."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(self.mean.dtype) / 255
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]

    def _settings(self) -> tuple[str, ...]:
        return (str(self.size), self.resize, str(self.mean.tolist()), str(self.std.tolist()))


class ImageTower(MediaTower):
    """Images (B, 3, size, size) with values in [0, 1] to feature rows (B, width)."""


class VideoTower(MediaTower):
    """Clips (B, F, 3, size, size) with values in [0, 1] to feature rows (B, width)."""

    frames: int
    sampling: FrameSampling

    def __init__(
        self, size: int, sampling: FrameSampling, mean: Sequence[float], std: Sequence[float], resize: str = "stretch"
    ) -> None:
        super().__init__(size, mean, std, resize)
        self.frames = sampling.frames
        self.sampling = sampling

    def _settings(self) -> tuple[str, ...]:
        """Pixels and frames."""
        return (*super()._settings(), str(self.sampling))


class TextTower(Tower):
    """Captions to feature rows (B, width): `tower(tower.tokenize(captions))`."""

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return the input of `forward`, each tensor (B, L); captions over the tower's limit are cut."""
        raise NotImplementedError

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Return the features (B, width) of the output of `tokenize`."""
        raise NotImplementedError


def make_tower(component: type[AnyTower], name: str, **arguments: Any) -> AnyTower:
    """Return a tower of the class `component`; `name` is its name in a recipe.

    Args:
        component: a tower class.
        name: also passed to the constructor if it has a parameter of this name.
        arguments: its options, and the parameters in GIVEN_BY_RUN; those are left out if they are None.

    Raises:
        RecipeError: an unknown option (names the nearest), a value outside its range, or options that contradict each
            other.
    """
    hints = get_type_hints(component.__init__, include_extras=True)
    known = [parameter for parameter in inspect.signature(component).parameters if parameter != "name"]
    arguments = {key: value for key, value in arguments.items() if value is not None or key not in GIVEN_BY_RUN}
    for option, value in arguments.items():
        if option not in known:
            raise RecipeError(f"tower {name!r} has no option {option!r}; {nearest(option, known)}")
        if option not in ("vocabulary", "pretrained"):
            try:
                TypeAdapter(hints.get(option, Any)).validate_python(value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise RecipeError(f"tower {name!r}: {option} is {quoted(value)}: {reason.lower()}") from None
    if "name" in inspect.signature(component).parameters:
        arguments["name"] = name
    try:
        tower = component(**arguments)
    except InputError as error:
        raise RecipeError(f"tower {name!r}: {error}") from None
    except Exception as error:
        if isinstance(error, MmtsError) or component.__module__.startswith("mmts."):
            raise
        raise RecipeError(f"tower {name!r} cannot be made: {type(error).__name__}: {error}") from None
    tower.name, tower.arguments = name, arguments
    return tower


def is_frozen(tower: nn.Module) -> bool:
    """Return whether no parameter of `tower` trains."""
    return not any(parameter.requires_grad for parameter in tower.parameters())


def outside_settings(tower: Tower) -> tuple[str, ...]:
    """Return the arguments and the code of a tower that somebody else wrote: its features change with both."""
    module = type(tower).__module__
    if module.partition(".")[0] == "mmts":
        return ()
    try:
        code = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):  # typed in at a prompt
        code = ""
    return (repr(sorted(tower.arguments.items())), code)


def hash_weights(module: nn.Module) -> str:
    """Return a hash of the weights and buffers of `module`, whatever device they are on.

    >>> layer = nn.Linear(2, 2)
    >>> before = hash_weights(layer)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> hash_weights(layer) == before
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        flat: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()
