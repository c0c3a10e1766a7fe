"""A model that turns media and texts into unit embeddings, for search and `mmts embed`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmts.data.media.load import feature_rows, why_unreadable
from mmts.data.records import Medium
from mmts.files import content_hash
from mmts.models import TwoTower, embed_media, embed_text, media_features, text_features
from mmts.models.base import hash_weights
from mmts.models.features import Rows
from mmts.recipe.run_directory import RunDirectory
from mmts.training.experiment import load_model
from mmts.training.start import open_pair


class Encoder:
    """A model with its towers; `fingerprint` changes with whatever changes its embeddings."""

    def __init__(self, model: TwoTower, kind: str) -> None:
        self.model, self.kind = model, kind  # "image" or "video"
        self.media_tower, self.text_tower = model.media_tower, model.text_tower
        towers = [tower.fingerprint for tower in (self.media_tower, self.text_tower) if tower is not None]
        heads = (hash_weights(head.state_dict()) for head in (model.media_head, model.text_head))
        self.fingerprint = content_hash(*towers, *heads)
        model.drop_frozen()  # from here on it takes their features
        model.eval()

    def text(self, captions: Sequence[str]) -> Rows:
        """Return unit embeddings (N, D) of N texts."""
        inputs: Rows | Sequence[str] = captions
        if self.model.text_tower is None and self.text_tower is not None:
            inputs = text_features(self.text_tower, captions, cached=False)
        return np.asarray(embed_text(self.model, inputs))

    def media(self, media: Sequence[Medium], failed: dict[int, str] | None = None) -> Rows:
        """Return unit embeddings (M, D) of M media. Raises DataError naming an unreadable one.

        failed: is filled, instead, with why media cannot be decoded, by their positions.
        """
        inputs: Rows | Sequence[Medium] = media
        if self.media_tower is None:
            inputs = feature_rows(media)
        elif self.model.media_tower is None:
            inputs = media_features(self.media_tower, media, cached=False, failed=failed)
        return np.asarray(embed_media(self.model, inputs, failed=failed))

    def media_or_zeros(self, media: Sequence[Medium], width: int) -> Rows:
        """Return unit embeddings (M, width) of M media, zeros for those that cannot be read; each is decoded once."""
        if self.media_tower is None:
            rows = np.zeros((len(media), width), np.float32)
            readable = [at for at, medium in enumerate(media) if why_unreadable(medium) is None]
            if readable:
                rows[readable] = self.media([media[at] for at in readable])
            return rows
        failed: dict[int, str] = {}
        rows = self.media(media, failed)
        rows[[*failed]] = 0
        return rows


def open_encoder(model: str, media: Sequence[Medium] = (), checkpoint: str = "best") -> Encoder:
    """Return the encoder of a run's checkpoint, or of a pretrained pair (docs/pretrained.md).

    media: examples of the inputs, for a run on precomputed features. Raises RecipeError or RunError for something else.
    """
    RunDirectory.check_checkpoint(checkpoint)
    if (Path(model).expanduser() / "recipe.yaml").is_file():
        run = RunDirectory(Path(model).expanduser())
        return Encoder(load_model(run, media, checkpoint), run.recipe().model.kind)
    return Encoder(open_pair(model, media), "image")
