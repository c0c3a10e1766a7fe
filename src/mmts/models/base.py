"""The base classes of towers, and a function that makes a tower from its class and arguments."""

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmts.data.media.video import FrameSampling
from mmts.errors import InputError, MmtsError, RecipeError, counted, nearest, quoted
from mmts.files import content_hash

Resize = Literal["stretch", "crop", "pad"]
"""How a rectangle becomes a square, see `mmts.data.media.image.fit_square`."""
Sampling = Literal["uniform", "random", "stride"]
"""Which frames of a video make a clip, see `mmts.data.media.video.FrameSampling`."""
GIVEN_BY_RUN = ("name", "size", "frames", "sampling", "stride", "vocabulary", "pretrained")
"""Parameters of a tower's constructor that are not its options: the run gives them, or a key beside `options`."""

AnyTower = TypeVar("AnyTower", bound="Tower")


class Checkpointed(nn.Module):
    """A block that keeps only its inputs for the backward pass if `checkpointing`, and computes the rest again then."""

    checkpointing = False

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call `forward`, checkpointed if that is on and a graph is recorded."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *inputs, use_reentrant=False, **options)
        return super().__call__(*inputs, **options)


class _EncoderLayer(Checkpointed, nn.TransformerEncoderLayer):
    pass


def transformer(width: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Return pre-norm transformer blocks with GELU, an inner width of 4 `width`, and a last norm."""
    check_heads(width, heads)
    layer = _EncoderLayer(width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True)
    blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
    for name, parameter in blocks.named_parameters():  # the encoder copies one layer; each gets its own start
        if parameter.dim() == 2:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    return blocks


def check_heads(width: int, heads: int) -> None:
    """Raise InputError unless `heads` divides `width`."""
    if width % heads:
        raise InputError(f"width {width} is not a multiple of heads {heads}")


def default_heads(width: int) -> int:
    """Return one head per 64 features, as in ViT and CLIP, or a single one if 64 does not divide the width."""
    return width // 64 if width % 64 == 0 else 1


class Tower(nn.Module):
    """One side's inputs to feature rows (B, width); a tower without a parameter that trains is frozen.

    The parameters of a tower's constructor are its options in a recipe, except those in GIVEN_BY_RUN. The constructor
    raises InputError for options that contradict each other.
    """

    name: str  # in a recipe
    width: int  # number of features in a row
    exact: bool = False  # whether features are computed in float32 even where bf16 is faster
    from_scratch: bool = False  # whether its weights start at random, so that freezing it makes no sense
    arguments: Mapping[str, Any] = {}  # what `make_tower` gave the constructor

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__

    @property
    def fingerprint(self) -> str:
        """The name and a hash of the present weights and of all else that determines the features."""
        parts = *self._settings(), *outside_settings(self), hash_weights(self.state_dict())
        return f"{self.name}-{content_hash(*parts)}"

    def _settings(self) -> tuple[str, ...]:
        """Return what changes the features besides the weights."""
        return ()

    def freeze(self) -> None:
        """Stop training the tower: evaluation mode, no gradients."""
        self.requires_grad_(False).eval()

    def train(self: AnyTower, mode: bool = True) -> AnyTower:
        """Set training or evaluation mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and not is_frozen(self))

    def enable_gradient_checkpointing(self) -> None:
        """Train with less memory and about a third more time. Raises RecipeError if no block can do it."""
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # transformers' new and old name
        enable = next(filter(None, (getattr(getattr(self, "model", None), name, None) for name in names)), None)
        blocks = [module for module in self.modules() if isinstance(module, Checkpointed)]
        for block in blocks:
            block.checkpointing = True
        why = "" if enable or blocks else "it has no blocks"
        try:
            if enable is not None:
                enable({"use_reentrant": False})
        except ValueError as error:
            why = str(error)
        if why:
            problem = f"cannot checkpoint its gradients ({why}); set gradient_checkpointing to false"
            raise RecipeError(f"tower {self.name!r} {problem}")


class MediaTower(Tower):
    """Images or clips, with values in [0, 1], to feature rows (B, width); it normalizes the pixels itself."""

    size: int  # side of the square input in pixels
    resize: str  # how a rectangle becomes that square
    mean: Tensor  # (3,) of each color
    std: Tensor
    frames: int | None = None  # F, number of frames in a clip; None for images
    sampling: FrameSampling | None = None  # which frames of a video make a clip; None for images

    def __init__(
        self, size: int, mean: Sequence[float] = (0.5,) * 3, std: Sequence[float] = (0.5,) * 3, resize: str = "stretch"
    ) -> None:
        super().__init__()
        self.size, self.resize = size, resize
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32, device="cpu"), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of images (B, 3, size, size) or clips (B, F, 3, size, size), uint8 or not."""
        square = (3, self.size, self.size)
        kind, expected = ("images", square) if self.frames is None else ("clips", (self.frames, *square))
        if pixels.shape[1:] != expected:
            shape = ", ".join(map(str, expected))
            raise InputError(f"tower {self.name!r} takes {kind} of shape (B, {shape}), not {tuple(pixels.shape)}")
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(self.mean.dtype) / 255
        return self.features((pixels - self.mean[:, None, None]) / self.std[:, None, None])

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of pixels less the mean over the deviation; every tower writes this."""
        raise NotImplementedError

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
        self.frames, self.sampling = sampling.frames, sampling

    def _settings(self) -> tuple[str, ...]:
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

    arguments: its options, and the parameters in GIVEN_BY_RUN, which are left out if they are None. Raises RecipeError
    for an unknown option (names the nearest), a value outside its range, or options that contradict each other.
    """
    hints = get_type_hints(component.__init__, include_extras=True)
    parameters = inspect.signature(component).parameters
    known = [parameter for parameter in parameters if parameter != "name"]
    arguments = {key: value for key, value in arguments.items() if value is not None or key not in GIVEN_BY_RUN}
    for option, value in arguments.items():
        if option not in known:
            raise RecipeError(f"tower {name!r} has no option {option!r}; {nearest(option, known)}")
        if option not in ("vocabulary", "pretrained"):
            try:
                arguments[option] = TypeAdapter(hints.get(option, Any)).validate_python(value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise RecipeError(f"tower {name!r}: {option} is {quoted(value)}: {reason.lower()}") from None
    if "name" in parameters:
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


def load_tower(
    name: str | type[AnyTower], table: Mapping[str, type[AnyTower]], other: type[AnyTower], options: Mapping[str, Any]
) -> AnyTower:
    """Return the tower that is named in `table`, or a class, or of the class `other`, which takes any other name."""
    if isinstance(name, type):
        return make_tower(name, name.__name__, **options)
    return make_tower(table.get(name, other), name, **options)


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


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return a hash of weights and buffers, whatever device they are on."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        flat: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()


def misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Say what keeps `state` from being loaded into a module whose state is `own`; None if it fits."""
    for names, problem in ((own.keys() - state.keys(), "lacks"), (state.keys() - own.keys(), "also has")):
        if names:
            return f"{problem} {counted(len(names), 'weight')}, such as {min(names)!r}"
    for name, value in own.items():
        if state[name].shape != value.shape:
            return f"has the weight {name!r} of shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return None
