"""Video towers: clips of F frames to feature rows, frame by frame or with attention over space and time."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmts.data.media.video import FrameSampling
from mmts.errors import InputError, RecipeError, nearest
from mmts.models.base import ImageTower, Sampling, VideoTower, is_frozen, make_tower, outside_settings
from mmts.models.blocks import default_heads, transformer
from mmts.models.image_towers import load_image_tower
from mmts.models.space_time_vit import SpaceTimeViT
from mmts.options import AtLeastOne, ZeroToBelowOne


class FramesTower(VideoTower):
    """An image tower on each frame, then the mean of the frames' features, or a small transformer over them.

    mean:         features = 1/F sum_f image(frame_f)
    transformer:  features = 1/F sum_f states_f,  states = layer_norm(blocks(image(frame) + position))

    The size, resize, mean and std are those of the image tower.

    image: the tower of the frames: a name as for `model.image`.
    image_options: options of that tower.
    image_frozen: keep the image tower as it is, so that only the transformer trains.
    pooling: `mean`, or `transformer` (pre-norm blocks with learned positions, from random weights).
    depth: number of blocks of the transformer.
    heads: heads of its attention; by default one per 64 features.
    dropout: dropout in it.

    >>> options = {"width": 8, "heads": 2, "depth": 1}
    >>> FramesTower("small-vit", options, size=16, frames=3)(torch.rand(2, 3, 3, 16, 16)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        image: str | type[ImageTower] = "efficientnet-lite0",
        image_options: Mapping[str, Any] | None = None,
        image_frozen: bool = False,
        pooling: Literal["mean", "transformer"] = "mean",
        depth: AtLeastOne = 2,
        heads: AtLeastOne | None = None,
        dropout: ZeroToBelowOne = 0.0,
        size: Annotated[int, Ge(8)] | None = None,
        frames: AtLeastOne = 16,
        sampling: Sampling = "uniform",
        stride: AtLeastOne = 4,
    ) -> None:
        if "size" in (image_options or {}):
            raise InputError("the size of the frames is the tower's own size, not one of image_options")
        tower = load_image_tower(image, size=size, **(image_options or {}))
        clip = FrameSampling(frames, sampling, stride)
        super().__init__(tower.size, clip, tower.mean.tolist(), tower.std.tolist(), tower.resize)
        if image_frozen and tower.from_scratch:
            raise InputError(
                f"its image tower {tower.name!r} starts from random weights, so it has to train: set image_frozen to "
                "false"
            )
        self.pooling = pooling
        self.from_scratch = tower.from_scratch or pooling == "transformer"
        self.width = tower.width
        self.image = tower
        if image_frozen:
            tower.freeze()
        self.blocks: nn.Module | None = None
        if pooling == "transformer":
            self.blocks = transformer(self.width, depth, heads or default_heads(self.width), dropout)
            self.positions = nn.Parameter(torch.empty(frames, self.width))
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
        """Checkpoint the gradients of the image tower if it trains, and of the transformer if there is one."""
        if not is_frozen(self.image):
            self.image.enable_gradient_checkpointing()
        if self.blocks is not None:
            super().enable_gradient_checkpointing()

    def settings(self) -> tuple[str, ...]:
        """Pixels, frames, pooling, and all that the image tower depends on."""
        image = (self.image.name, *self.image.settings(), *outside_settings(self.image))
        return (*super().settings(), self.pooling, *image)


VIDEO_TOWERS: dict[str, type[VideoTower]] = {"frames": FramesTower, "space-time-vit": SpaceTimeViT}
"""The video towers by the names that recipes call them."""


def load_video_tower(name: str | type[VideoTower], **options: Any) -> VideoTower:
    """Return a video tower; it trains until `freeze` is called.

    Args:
        name: a name in VIDEO_TOWERS, or a class.
        options: `size` (side of the square frames in pixels), `frames` (F of a clip), `sampling` ("uniform", "random"
            or "stride", see `mmts.data.media.video.FrameSampling`), `stride` (source frames from one of the clip's
            frames to the next), and the tower's options. None is the tower's own.

    Raises:
        RecipeError: an unknown name or option, or a value outside its range.

    >>> load_video_tower("frames", frames=4, size=32, image="small-resnet", image_options={"channels": 4}).width
    32
    >>> load_video_tower("frame")
    Traceback (most recent call last):
    mmts.errors.RecipeError: unknown video tower 'frame'; did you mean 'frames'?
    """
    if isinstance(name, type):
        return make_tower(name, name.__name__, **options)
    if name not in VIDEO_TOWERS:
        raise RecipeError(f"unknown video tower {name!r}; {nearest(name, VIDEO_TOWERS)}")
    return make_tower(VIDEO_TOWERS[name], name, **options)
