"""Video towers: clips of F frames to feature rows, frame by frame or with attention over space and time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmts.data.media.video import KINDS, FrameSampling
from mmts.errors import InputError, RecipeError, nearest
from mmts.models import huggingface as hf
from mmts.models.base import MediaTower, is_frozen
from mmts.models.blocks import ACTIVATIONS, check_heads, default_heads, transformer
from mmts.models.clip_weights import ClipWeights, square_root, video_weights
from mmts.models.image_towers import ImageTower, load_image_tower
from mmts.models.options import agreed, check_choice, check_int, check_options
from mmts.models.space_time_vit import SpaceTimeViT


class VideoTower(MediaTower):
    """Clips (B, F, 3, size, size) with values in [0, 1] to feature rows (B, width).

    Attributes:
        frames: F.
        sampling: which frames of a video make a clip.
    """

    frames: int
    sampling: FrameSampling

    def __init__(
        self, name: str, sampling: FrameSampling, size: int, mean: Sequence[float], std: Sequence[float], resize: str
    ) -> None:
        super().__init__(name, size, mean, std, resize)
        self.frames = sampling.frames
        self.sampling = sampling

    def forward(self, clips: Tensor) -> Tensor:
        """Return the features (B, width) of clips (B, F, 3, size, size). Raises InputError for another shape."""
        wanted = (self.frames, 3, self.size, self.size)
        if clips.dim() != 5 or clips.shape[1:] != wanted:
            raise InputError(
                f"tower {self.name!r} takes clips of shape (B, {', '.join(map(str, wanted))}), not {tuple(clips.shape)}"
            )
        return self.features(self.normalized(clips))

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of normalised clips (B, F, 3, size, size)."""
        raise NotImplementedError

    def settings(self) -> tuple[str, ...]:
        """Pixels and frames."""
        return (*super().settings(), str(self.sampling))


class FramesTower(VideoTower):
    """An image tower on each frame, then the mean of the frames' features, or a small transformer over them.

    mean:         features = 1/F sum_f image(frame_f)
    transformer:  features = 1/F sum_f states_f,  states = layer_norm(blocks(image(frame) + position))

    Args:
        image: the tower of the frames; its size, resize, mean and std are this tower's.
        sampling: which frames.
        pooling: "mean" or "transformer" (pre-norm blocks with learned positions, from random weights).
        depth: number of the transformer's blocks.
        heads: of its attention; None is one per 64 features.
        dropout: in it.
        image_frozen: keep the image tower as it is, so that only the transformer trains.

    >>> image = load_image_tower("small-vit", size=16, width=8, heads=2, depth=1)
    >>> FramesTower(image, FrameSampling(frames=3))(torch.rand(2, 3, 3, 16, 16)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        image: ImageTower,
        sampling: FrameSampling,
        pooling: str = "mean",
        depth: int = 2,
        heads: int | None = None,
        dropout: float = 0.0,
        image_frozen: bool = False,
    ) -> None:
        name = "frames"
        super().__init__(name, sampling, image.size, image.mean.tolist(), image.std.tolist(), image.resize)
        if image_frozen and image.from_scratch:
            raise RecipeError(
                f"tower 'frames': its image tower {image.name!r} starts from random weights, so it has to train: "
                "set image_frozen to false"
            )
        self.pooling = check_choice(name, "pooling", pooling, ("mean", "transformer"))
        self.from_scratch = image.from_scratch or pooling == "transformer"
        self.width = image.width
        self.image = image
        if image_frozen:
            image.freeze()
        self.blocks: nn.Module | None = None
        if pooling == "transformer":
            heads = default_heads(self.width) if heads is None else heads
            self.blocks = transformer(name, self.width, depth, heads, dropout)
            self.positions = nn.Parameter(torch.empty(self.frames, self.width))
            nn.init.normal_(self.positions, std=0.02)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the pooled features of the frames."""
        with torch.no_grad() if is_frozen(self.image) else nullcontext():
            rows = self.image.features(pixels.flatten(0, 1)).reshape(pixels.shape[0], self.frames, self.width)
        if self.blocks is not None:
            rows = self.blocks(rows + self.positions)
        return rows.mean(1)

    def train(self, mode: bool = True) -> "FramesTower":
        """Set training or evaluation mode; a frozen image tower stays in evaluation mode."""
        super().train(mode)
        if is_frozen(self.image):
            self.image.eval()
        return self

    def freeze(self) -> None:
        """Stop training it, and the image tower in its own way."""
        super().freeze()
        self.image.freeze()

    def enable_gradient_checkpointing(self) -> None:
        """Let the image tower do it where it trains, and the transformer where there is one."""
        if not is_frozen(self.image):
            self.image.enable_gradient_checkpointing()
        if self.blocks is not None:
            super().enable_gradient_checkpointing()

    def settings(self) -> tuple[str, ...]:
        """Pixels, frames, pooling, and what the image tower depends on."""
        return (*super().settings(), self.pooling, self.image.name, *self.image.settings())


class SpaceTimeTower(VideoTower):
    """The space-time ViT of AVION, see `SpaceTimeViT`: from scratch, from AVION's weights, or inflated from CLIP's.

    Args:
        sampling: which frames.
        size: side of the square input in pixels; 224 unless weights say otherwise.
        weights: a checkpoint file of AVION, or a Hugging Face CLIP name or folder, which then decides about all sizes;
            None starts at random. The temporal embedding of weights for another number of frames is interpolated
            linearly; an image model's is zero.
        patch: side of a patch in pixels; 16.
        width: of the states; 768.
        depth: number of blocks; 12.
        heads: of the attention; one per 64 features.
        output_width: of the features; 512.
        activation: "gelu" or "quick_gelu" (OpenAI's models); that of the weights, else "gelu".
        resize: "stretch", "crop" or "pad"; that of the weights, else "crop".
    """

    def __init__(
        self,
        sampling: FrameSampling,
        *,
        size: int | None = None,
        weights: str | Path | ClipWeights | None = None,
        patch: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        output_width: int | None = None,
        activation: str | None = None,
        resize: str | None = None,
    ) -> None:
        name = "space-time-vit"
        if isinstance(weights, str | Path):
            weights = video_weights(weights)
        if weights is None:
            sizes = {"size": 224, "patch": 16, "width": 768, "depth": 12, "output_width": 512}
            pixels = hf.Preprocessing(mean=hf.CLIP_MEAN, std=hf.CLIP_STD)
        else:
            sizes = _sizes(weights)
            pixels = weights.pixels
        source = weights.source if weights else None
        size = agreed(name, "size", size, sizes["size"], source, low=8)
        super().__init__(name, sampling, size, pixels.mean, pixels.std, resize or pixels.resize)
        self.from_scratch = weights is None
        patch = agreed(name, "patch", patch, sizes["patch"], source)
        width = agreed(name, "width", width, sizes["width"], source)
        if size % patch:
            raise RecipeError(f"tower {name!r}: size {size} is not a multiple of patch {patch}")
        if heads is None:
            heads = weights.heads_for(width) if weights else default_heads(width)
        check_heads(name, width, heads)
        own = weights.activation if weights else "gelu"
        self.heads = heads
        self.activation = check_choice(name, "activation", activation or own, ACTIVATIONS)
        self.eps = weights.eps if weights else 1e-6
        self.width = agreed(name, "output_width", output_width, sizes["output_width"], source)
        self.network = SpaceTimeViT(
            size=size,
            patch=patch,
            frames=self.frames,
            width=width,
            depth=agreed(name, "depth", depth, sizes["depth"], source),
            heads=heads,
            inner=weights.inner if weights else 4 * width,
            output_width=self.width,
            activation=self.activation,
            eps=self.eps,
        )
        if weights is not None:
            weights.with_frames(self.frames).fill(self.network)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the projected class token."""
        rows: Tensor = self.network(pixels)
        return rows

    def settings(self) -> tuple[str, ...]:
        """Pixels, frames, and what the weights' shapes do not tell."""
        return (*super().settings(), str(self.heads), self.activation, str(self.eps))


def _sizes(weights: ClipWeights) -> dict[str, int]:
    """Read the sizes of a space-time ViT off its weights."""
    patch = square_root(weights.matrix("patches.weight")[1] // 3, f"{weights.source}, pixels of a patch")
    side = square_root(weights.matrix("positional_embedding")[0] - 1, f"{weights.source}, patches of a frame")
    width, output_width = weights.matrix("image_projection")
    return {
        "size": side * patch,
        "patch": patch,
        "width": width,
        "depth": weights.depth,
        "output_width": output_width,
    }


def _frames(
    *, size: int | None, frames: int | None, sampling: str | None, stride: int | None, options: Mapping[str, Any]
) -> FramesTower:
    image = options.get("image", "efficientnet-lite0")
    image_options = options.get("image_options") or {}
    if not isinstance(image, str) or not isinstance(image_options, Mapping):
        raise RecipeError("tower 'frames': image is the name of an image tower, and image_options its options")
    if "size" in image_options:
        raise RecipeError("tower 'frames': the size of its frames is the tower's own size, not one of image_options")
    rest = {name: value for name, value in options.items() if name not in ("image", "image_options")}
    tower = load_image_tower(image, size=size, **image_options)
    return FramesTower(tower, make_sampling("frames", frames, sampling, stride), **rest)


def _space_time(
    *, size: int | None, frames: int | None, sampling: str | None, stride: int | None, options: Mapping[str, Any]
) -> SpaceTimeTower:
    weights = options.get("weights")
    if isinstance(weights, str | Path):
        weights = video_weights(weights)
    if frames is None and weights is not None:
        frames = weights.frames
    rest = {name: value for name, value in options.items() if name != "weights"}
    return SpaceTimeTower(make_sampling("space-time-vit", frames, sampling, stride), size=size, weights=weights, **rest)


BUILT_IN: dict[str, tuple[Callable[..., VideoTower], tuple[str, ...]]] = {
    "frames": (_frames, ("image", "image_options", "image_frozen", "pooling", "depth", "heads", "dropout")),
    "space-time-vit": (
        _space_time,
        ("weights", "patch", "width", "depth", "heads", "output_width", "activation", "resize"),
    ),
}


def make_sampling(name: str, frames: int | None, sampling: str | None, stride: int | None) -> FrameSampling:
    """Return which frames a tower wants; None is what `FrameSampling` says. Raises RecipeError for wrong values."""
    own = FrameSampling()
    return FrameSampling(
        frames=check_int(name, "frames", own.frames if frames is None else frames, 1),
        kind=check_choice(name, "sampling", own.kind if sampling is None else sampling, KINDS),
        stride=check_int(name, "stride", own.stride if stride is None else stride, 1),
    )


def load_video_tower(
    name: str,
    *,
    size: int | None = None,
    frames: int | None = None,
    sampling: str | None = None,
    stride: int | None = None,
    **options: Any,
) -> VideoTower:
    """Return a video tower by name; it trains until `freeze` is called.

    Args:
        name: "frames" (an image tower on each frame) or "space-time-vit" (AVION's).
        size: side of the square frames in pixels; None is the tower's own.
        frames: F, of a clip; None is that of the weights, or 16.
        sampling: "uniform", "random" or "stride", see `mmts.data.media.video.FrameSampling`; None is "uniform".
        stride: source frames from one of the clip's to the next, for "stride"; None is 4.
        options: for frames: `image` (name of an image tower, "efficientnet-lite0"), `image_options`, `image_frozen`,
            `pooling`, `depth`, `heads`, `dropout`, see `FramesTower`; for space-time-vit: `weights`, `patch`, `width`,
            `depth`, `heads`, `output_width`, `activation`, `resize`, see `SpaceTimeTower`.

    Raises:
        RecipeError: an unknown name or option; says what there is.

    >>> load_video_tower("frames", frames=4, size=32, image="small-resnet", image_options={"channels": 4}).width
    32
    >>> load_video_tower("frame")
    Traceback (most recent call last):
    mmts.errors.RecipeError: unknown video tower 'frame'; did you mean 'frames'?
    """
    if name not in BUILT_IN:
        raise RecipeError(f"unknown video tower {name!r}; {nearest(name, BUILT_IN)}")
    build, known = BUILT_IN[name]
    check_options(name, options, known)
    return build(size=size, frames=frames, sampling=sampling, stride=stride, options=options)
