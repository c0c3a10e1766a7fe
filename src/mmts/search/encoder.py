"""A trained run as search uses it: media and texts to unit embeddings in one space."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmts.data.media.load import feature_rows
from mmts.data.records import Medium
from mmts.files import content_hash
from mmts.models import TwoTower, embed_media, embed_text, media_features, text_features
from mmts.models.base import MediaTower, TextTower, hash_weights
from mmts.models.features import LoadPixels
from mmts.recipe.run_directory import RunDirectory
from mmts.search.nearest import Rows
from mmts.training.experiment import load_model


@dataclass(frozen=True)
class Encoder:
    """A run's model, without its frozen towers: it takes their features.

    Attributes:
        model: heads, and the towers that were trained.
        media_tower: images or clips to features; None if the data are features.
        text_tower: texts to features.
        kind: "image" or "video".
        checkpoint: hash of all weights and settings.
    """

    model: TwoTower
    media_tower: MediaTower | None
    text_tower: TextTower
    kind: str
    checkpoint: str

    def text(self, captions: Sequence[str]) -> Rows:
        """Return unit embeddings (N, D) of N texts."""
        is_frozen = self.model.text_tower is None
        inputs = text_features(self.text_tower, captions, cached=False) if is_frozen else captions
        rows: Rows = embed_text(self.model, inputs).numpy()
        return rows

    def media(self, media: Sequence[Medium], load: LoadPixels | None = None) -> Rows:
        """Return unit embeddings (M, D) of M media, each read by `load`. Raises DataError naming an unreadable one."""
        inputs: Rows | Sequence[Medium] = media
        if self.media_tower is None:
            inputs = feature_rows(media)
        elif self.model.media_tower is None:
            inputs = media_features(self.media_tower, media, load=load, cached=False)
        rows: Rows = embed_media(self.model, inputs, load=load).numpy()
        return rows


def load_encoder(run: Path, media: Sequence[Medium]) -> Encoder:
    """Load a run's best checkpoint; `media` are examples of its inputs. Raises what `load_model` raises."""
    directory = RunDirectory(run)
    model = load_model(directory, media)
    media_tower, text_tower = model.media_tower, model.text_tower
    assert text_tower is not None
    towers = [tower.fingerprint for tower in (media_tower, text_tower) if tower is not None]
    checkpoint = content_hash(*towers, hash_weights(model.media_head), hash_weights(model.text_head))
    model.drop_frozen()
    model.eval()
    return Encoder(model, media_tower, text_tower, directory.recipe().model.kind, checkpoint)
