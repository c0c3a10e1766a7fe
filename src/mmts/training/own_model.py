"""A model of the caller's own, which `mmts.train` takes in place of the one that the recipe describes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmts.data.media.video import FrameSampling
from mmts.data.records import Medium
from mmts.errors import InputError
from mmts.models import TwoTower
from mmts.models.base import MediaTower, TextTower

_BARE = "<tensor>"  # the name of what `tokenize` returned, if that was a tensor and not a mapping


class _Media(MediaTower):
    def __init__(self, model: Any, frames: int | None) -> None:
        super().__init__(model.image_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), getattr(model, "resize", "stretch"))
        self.model, self.name = model, type(model).__name__
        self.frames = frames
        self.sampling = None if frames is None else FrameSampling(frames, "random")

    def features(self, pixels: Tensor) -> Tensor:
        return self.model.embed_media(pixels)  # type: ignore[no-any-return]


class _Features(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model.embed_media(rows)  # type: ignore[no-any-return]


class _Text(TextTower):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.name = model, type(model).__name__

    def tokenize(self, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = self.model.tokenize(list(captions))
        return dict(tokens) if isinstance(tokens, Mapping) else {_BARE: tokens}

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return self.model.embed_text(tokens.get(_BARE, tokens))  # type: ignore[no-any-return]


def two_tower_of(model: nn.Module, medium: Medium) -> TwoTower:
    """Return a model of the caller's own as the trainer takes it, for data such as `medium`.

    `mmts.train` says what such a model has. Raises InputError naming the attribute that it lacks.
    """
    if isinstance(model, TwoTower):
        return model
    required = ["embed_media", "embed_text", "tokenize"]
    if not medium.is_features:
        required += ["image_size", *(["frames"] if medium.kind == "video" else [])]
    for attribute in required:
        if not hasattr(model, attribute):
            kind = type(model).__name__
            raise InputError(f"the model {kind} has no {attribute}, which these data need; help(mmts.train) lists all")
    text = _Text(model)
    if medium.is_features:
        return TwoTower(None, text, _Features(model), nn.Identity())
    frames = int(model.frames) if medium.kind == "video" else None  # type: ignore[arg-type]
    return TwoTower(_Media(model, frames), text, nn.Identity(), nn.Identity())
