"""Video towers: clips of F frames to feature rows, frame by frame or with attention over space and time."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from mmts.data.media.video import FrameSampling
from mmts.errors import InputError, RecipeError, nearest
from mmts.models import base
from mmts.models import huggingface as hf
from mmts.models.base import ImageTower, Resize, Sampling, VideoTower, is_frozen
from mmts.models.clip import ClipBlocks, ClipWeights, agreed, read_weights
from mmts.models.image_towers import load_image_tower
from mmts.options import AtLeastOne, ZeroToBelowOne


class FramesTower(VideoTower):
    """An image tower on each frame, then the mean of the frames' features, or a small transformer over them.

    mean:         features = 1/F sum_f image(frame_f)
    transformer:  features = 1/F sum_f states_f,  states = layer_norm(blocks(image(frame) + position))

    image: the tower of the frames: a name as for `model.image`.
    image_options: options of that tower.
    image_frozen: keep the image tower as it is, so that only the transformer trains.
    pooling: `mean`, or `transformer` (pre-norm blocks with learned positions, from random weights).
    depth: number of blocks of the transformer.
    heads: heads of its attention; by default one per 64 features.
    dropout: dropout in it.
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
            starts = f"its image tower {tower.name!r} starts from random weights"
            raise InputError(f"{starts}, so it has to train: set image_frozen to false")
        self.image, self.width, self.pooling = tower, tower.width, pooling
        self.from_scratch = tower.from_scratch or pooling == "transformer"
        if image_frozen:
            tower.freeze()
        self.blocks: nn.Module | None = None
        if pooling == "transformer":
            self.blocks = base.transformer(self.width, depth, heads or base.default_heads(self.width), dropout)
            self.positions = nn.Parameter(torch.empty(frames, self.width))
            nn.init.normal_(self.positions, std=0.02)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the pooled features of the frames."""
        with torch.no_grad() if is_frozen(self.image) else nullcontext():
            rows = self.image.features(pixels.flatten(0, 1)).reshape(pixels.shape[0], self.frames, self.width)
        if self.blocks is not None:
            rows = self.blocks(rows + self.positions)
        return rows.mean(1)

    def freeze(self) -> None:
        """Stop training it, and the image tower in its own way."""
        super().freeze()
        self.image.freeze()

    def enable_gradient_checkpointing(self) -> None:
        """Do it in the image tower if it trains, and in the transformer if there is one."""
        if not is_frozen(self.image):
            self.image.enable_gradient_checkpointing()
        if self.blocks is not None:
            super().enable_gradient_checkpointing()

    def _settings(self) -> tuple[str, ...]:
        image = (self.image.name, *self.image._settings(), *base.outside_settings(self.image))
        return (*super()._settings(), self.pooling, *image)


class SpaceTimeViT(VideoTower):
    """The space-time ViT of AVION: from scratch, from AVION's weights, or inflated from CLIP's.

    It is CLIP's vision transformer with a temporal embedding. The token of patch g in frame f is
    patches(pixels) + position[1 + g] + temporal[f];  the class token has position 0 and no time. All 1 + F G tokens
    attend to each other; the class token's last state is normalized and projected.

    weights: a checkpoint file of AVION, or a Hugging Face CLIP name or folder, which then determines all sizes; without
        it the weights start at random. A temporal embedding for another number of frames is interpolated linearly; that
        of an image model is zero.
    patch: side of a patch in pixels; 16 unless the weights have another.
    width: width of the states; 768 unless the weights have another.
    depth: number of blocks; 12 unless the weights have another.
    heads: heads of the attention; by default one per 64 features.
    output_width: number of features; 512 unless the weights have another.
    activation: that of the weights by default, else `gelu`; OpenAI's models have `quick_gelu`.
    resize: how a rectangle becomes a square; that of the weights by default, else `crop`.

    Source: Zhao and Kraehenbuehl, Training a Large Video Model on a Single Machine in a Day (AVION), arXiv 2309.16669.
    """

    from_scratch = True  # unless there are weights

    def __init__(
        self,
        weights: str | None = None,
        patch: AtLeastOne | None = None,
        width: AtLeastOne | None = None,
        depth: AtLeastOne | None = None,
        heads: AtLeastOne | None = None,
        output_width: AtLeastOne | None = None,
        activation: Literal["gelu", "quick_gelu"] | None = None,
        resize: Resize | None = None,
        size: Annotated[int, Ge(8)] | None = None,
        frames: AtLeastOne | None = None,
        sampling: Sampling = "uniform",
        stride: AtLeastOne = 4,
        pretrained: ClipWeights | None = None,
    ) -> None:
        loaded = read_weights(weights, "image") if weights is not None else pretrained
        pixels = hf.Preprocessing(mean=hf.CLIP_MEAN, std=hf.CLIP_STD) if loaded is None else loaded.pixels
        own = {"size": 224, "patch": 16, "width": 768, "depth": 12, "output_width": 512}
        sizes = agreed(loaded, own, size, patch, width, depth, output_width)
        size, patch, width = sizes["size"], sizes["patch"], sizes["width"]
        if size % patch:
            raise InputError(f"size {size} is not a multiple of patch {patch}")
        frames = frames or (loaded.frames if loaded is not None else None) or 16
        clip = FrameSampling(frames, sampling, stride)
        super().__init__(size, clip, pixels.mean, pixels.std, resize or pixels.resize)
        self.from_scratch, self.width, self.patch = loaded is None, sizes["output_width"], patch
        self.patches = nn.Linear(3 * patch**2, width, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + (size // patch) ** 2, width))
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, width))
        self.blocks = ClipBlocks(width, sizes["depth"], heads, activation, loaded, eps=1e-6)
        self.ln_pre = nn.LayerNorm(width, self.blocks.eps)
        self.ln_post = nn.LayerNorm(width, self.blocks.eps)
        self.image_projection = nn.Parameter(torch.empty(width, self.width))
        nn.init.trunc_normal_(self.patches.weight, std=0.02)
        nn.init.normal_(self.class_embedding, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.02)
        nn.init.normal_(self.image_projection, std=width**-0.5)
        if loaded is not None:
            loaded.fill(self)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the projected class token of normalized clips."""
        B, F, C, size, _ = pixels.shape
        p, side = self.patch, size // self.patch  # a patch is flattened as a convolution's weight is
        cut = pixels.reshape(B, F, C, side, p, side, p).permute(0, 1, 3, 5, 2, 4, 6)  # (B, F, row, column, 3, p, p)
        tokens = self.patches(cut.reshape(B, F, side * side, C * p * p))
        tokens = tokens + self.positional_embedding[1:] + self.temporal_embedding[:, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(B, 1, -1)
        states: Tensor = self.blocks(self.ln_pre(torch.cat([first, tokens.flatten(1, 2)], dim=1)))  # (B, 1 + F G, W)
        return self.ln_post(states[:, 0]) @ self.image_projection  # type: ignore[no-any-return]

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), *self.blocks._settings())


VIDEO_TOWERS: dict[str, type[VideoTower]] = {"frames": FramesTower, "space-time-vit": SpaceTimeViT}
"""The video towers by the names that recipes call them."""


def load_video_tower(name: str | type[VideoTower], **options: Any) -> VideoTower:
    """Return a video tower, like `load_image_tower`; options also has `frames`, `sampling` and `stride`."""
    if name not in VIDEO_TOWERS and not isinstance(name, type):
        raise RecipeError(f"unknown video tower {name!r}; {nearest(name, VIDEO_TOWERS)}")
    return base.load_tower(name, VIDEO_TOWERS, SpaceTimeViT, options)
