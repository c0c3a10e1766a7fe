"""The two-tower model: media and captions to unit embeddings in one space; no temperature inside."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import RecipeError, RunError
from mmts.losses.normalize import unit
from mmts.models.base import MediaTower, TextTower, Tower, is_frozen
from mmts.models.heads import build_head
from mmts.models.image_towers import load_image_tower
from mmts.models.options import check_int
from mmts.models.text_towers import Vocabulary, load_text_tower
from mmts.models.video_towers import load_video_tower

DEFAULT_IMAGE = "efficientnet-lite0"

Tokens = Mapping[str, Tensor]


class TwoTower(nn.Module):
    """Two towers, each followed by its head.

    x = unit(media_head(media_tower(media))),  y = unit(text_head(text_tower(text)))

    A tower none of whose parameters requires a gradient is frozen: it stays in evaluation mode and records no graph.
    Where a tower is None, the input already is that tower's feature row.

    Args:
        media_tower: images (B, 3, size, size) or clips (B, F, 3, size, size) -> (B, W), or None.
        text_tower: tokens -> (B, W), or None.
        media_head: (B, W) -> (B, D).
        text_head: (B, W) -> (B, D).

    >>> model = TwoTower(None, None, nn.Linear(5, 3), nn.Linear(4, 3))
    >>> x, y = model(torch.ones(2, 5), torch.ones(2, 4))
    >>> x.shape, y.shape
    (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    def __init__(
        self,
        media_tower: MediaTower | None,
        text_tower: TextTower | None,
        media_head: nn.Module,
        text_head: nn.Module,
    ) -> None:
        super().__init__()
        self.media_tower = media_tower
        self.text_tower = text_tower
        self.media_head = media_head
        self.text_head = text_head
        self.train(self.training)

    def forward(self, media: Tensor, text: Tensor | Tokens) -> tuple[Tensor, Tensor]:
        """Return the unit embeddings of media and captions, both (B, D)."""
        return self.encode_media(media), self.encode_text(text)

    def encode_media(self, media: Tensor) -> Tensor:
        """Return the unit embeddings (B, D) of images or clips in [0, 1], or of feature rows (B, W)."""
        return _encode(self.media_tower, self.media_head, media)

    def encode_text(self, text: Tensor | Tokens) -> Tensor:
        """Return the unit embeddings (B, D) of what the text tower's `tokenize` gave, or of feature rows (B, W)."""
        return _encode(self.text_tower, self.text_head, text)

    def train(self, mode: bool = True) -> "TwoTower":
        """Set training or evaluation mode; frozen towers stay in evaluation mode."""
        super().train(mode)
        for _, tower in self._frozen_towers():
            tower.eval()
        return self

    def drop_frozen(self) -> None:
        """Forget frozen towers, to free their memory: from here on their inputs are feature rows."""
        for side, _ in self._frozen_towers():
            setattr(self, side, None)

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Return the state of all that trains: heads, and towers that are not frozen. The same after `drop_frozen`.

        A frozen tower inside another, as the frames' image tower can be, is left out too.
        """
        towers = [(name, module) for name, module in self.named_modules() if isinstance(module, Tower)]
        frozen = tuple(f"{name}." for name, tower in towers if is_frozen(tower))
        return {name: value for name, value in self.state_dict().items() if not name.startswith(frozen)}

    def load_trainable_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trainable_state_dict` gave; raises RunError, naming a weight, for the state of another model."""
        own = self.trainable_state_dict()
        for name in own:
            if name not in state:
                raise RunError(f"the saved model has no weight {name!r}; it belongs to a model of another shape")
        for name, value in state.items():
            if name not in own:
                raise RunError(f"the saved model has a weight {name!r} that this model lacks; they differ in shape")
            if value.shape != own[name].shape:
                shapes = f"{tuple(value.shape)}, this model's {tuple(own[name].shape)}"
                raise RunError(f"the saved model's weight {name!r} has shape {shapes}")
        self.load_state_dict(dict(state), strict=False)

    def _frozen_towers(self) -> list[tuple[str, Tower]]:
        sides = (("media_tower", self.media_tower), ("text_tower", self.text_tower))
        return [(side, tower) for side, tower in sides if tower is not None and is_frozen(tower)]


def _encode(tower: Tower | None, head: nn.Module, inputs: Any) -> Tensor:
    if tower is not None:
        with torch.no_grad() if is_frozen(tower) else nullcontext():
            inputs = tower(inputs)
    return unit(head(inputs))


def build_two_tower(
    *,
    image: str | None = None,
    image_size: int | None = None,
    image_options: Mapping[str, Any] | None = None,
    image_frozen: bool = True,
    video: str | None = None,
    video_options: Mapping[str, Any] | None = None,
    video_frozen: bool = True,
    frames: int | None = None,
    sampling: str | None = None,
    stride: int | None = None,
    feature_width: int | None = None,
    text: str = "minilm",
    text_options: Mapping[str, Any] | None = None,
    text_frozen: bool = True,
    vocabulary: Vocabulary | None = None,
    pretrained: str | Path | None = None,
    head: str = "two-layer",
    hidden: int = 512,
    dropout: float = 0.2,
    layer_norm: bool = True,
    width: int = 256,
) -> TwoTower:
    """Return a two-tower model with new heads; random weights come from torch's global generator (the caller seeds it).

    The media side is one of `image`, `video` and `feature_width`; "efficientnet-lite0" where none is given. Frozen
    towers are held by the model until `drop_frozen`, so that `mmts.models.features` can compute their rows.

    Args:
        image: name of an image tower, see `load_image_tower`.
        image_size: side of the square images or frames in pixels; None is the tower's own.
        image_options: the tower's options.
        image_frozen: keep the tower as it is and train only its head.
        video: name of a video tower, see `load_video_tower`.
        video_options: the tower's options.
        video_frozen: keep the tower as it is and train only its head.
        frames: of a clip, for `video`; this and the next two as in `load_video_tower`.
        sampling: which frames.
        stride: from frame to frame.
        feature_width: W of media given as feature rows (M, W), which need no tower.
        text: name of a text tower, see `load_text_tower`.
        text_options: the tower's options.
        text_frozen: keep the tower as it is and train only its head.
        vocabulary: the words of the training captions; only for "small-transformer".
        pretrained: a checkpoint file of AVION or MM-TS that fills both towers, "space-time-vit" and "clip-text"; the
            head must be "none", and the width the checkpoint's (256 of the published ones). As in `load_avion`.
        head: "linear", "two-layer" or "none"; both sides get the same kind.
        hidden: width between the layers of a two-layer head.
        dropout: dropout of a two-layer head.
        layer_norm: whether heads normalise the features first.
        width: width of the embeddings.

    Raises:
        RecipeError: an unknown name or option, more than one media side, or a frozen tower whose weights are random.
    """
    sides = {"image": image, "video": video, "feature_width": feature_width}
    given = [name for name, value in sides.items() if value is not None]
    if len(given) > 1:
        raise RecipeError(f"the media side is one of image, video and feature_width, not {' and '.join(given)}")
    video_options, text_options = dict(video_options or {}), dict(text_options or {})
    if pretrained is not None:
        if (video, text, head) != ("space-time-vit", "clip-text", "none"):
            raise RecipeError(
                "pretrained fills the towers space-time-vit (video) and clip-text (text) and needs head none, not "
                f"{video}, {text} and {head}"
            )
        for side, options in (("video", video_options), ("text", text_options)):
            if options.setdefault("weights", pretrained) != pretrained:
                raise RecipeError(f"the {side} tower gets the weights of pretrained; leave its option weights out")
    media_tower: MediaTower | None = None
    if video is not None:
        _refuse(video, video_options, ("size", "frames", "sampling", "stride"))
        media_tower = load_video_tower(
            video, size=image_size, frames=frames, sampling=sampling, stride=stride, **video_options
        )
    elif feature_width is not None:
        check_int("features", "feature_width", feature_width, 1)
    else:
        image_options = image_options or {}
        _refuse(image or DEFAULT_IMAGE, image_options, ("size",))
        media_tower = load_image_tower(image or DEFAULT_IMAGE, size=image_size, **image_options)
    _refuse(text, text_options, ("vocabulary",))
    text_tower = load_text_tower(text, vocabulary=vocabulary, **text_options)
    for tower, frozen in ((media_tower, image_frozen if video is None else video_frozen), (text_tower, text_frozen)):
        if tower is None or not frozen:
            continue
        if tower.from_scratch:
            raise RecipeError(
                f"tower {tower.name!r} starts from random weights, so it has to train: set frozen to false"
            )
        tower.freeze()
    media_width = media_tower.width if media_tower is not None else feature_width
    assert media_width is not None
    return TwoTower(
        media_tower,
        text_tower,
        build_head(head, media_width, width, hidden=hidden, dropout=dropout, layer_norm=layer_norm),
        build_head(head, text_tower.width, width, hidden=hidden, dropout=dropout, layer_norm=layer_norm),
    )


def _refuse(tower: str, options: Mapping[str, Any], own: tuple[str, ...]) -> None:
    """Raise RecipeError for an option that has a key of its own beside the options."""
    for name in own:
        if name in options:
            raise RecipeError(f"tower {tower!r}: {name} has its own key and is none of the tower's options")
