"""Towers (image, video, text), heads, and the two-tower module: unit embeddings, no temperature inside.

The signature of a tower's constructor lists its options in a recipe, and the docstring of its class explains them.
"""

from mmts.models.base import ImageTower, TextTower, Tower, VideoTower, is_frozen
from mmts.models.features import embed_media, embed_text, media_features, text_features
from mmts.models.image_towers import IMAGE_TOWERS, load_image_tower
from mmts.models.text_towers import TEXT_TOWERS, Vocabulary, build_vocabulary, load_text_tower
from mmts.models.two_tower import TwoTower, build_head, build_two_tower, load_avion
from mmts.models.video_towers import VIDEO_TOWERS, load_video_tower

__all__ = [
    "IMAGE_TOWERS",
    "TEXT_TOWERS",
    "VIDEO_TOWERS",
    "ImageTower",
    "TextTower",
    "Tower",
    "TwoTower",
    "VideoTower",
    "Vocabulary",
    "build_head",
    "build_two_tower",
    "build_vocabulary",
    "embed_media",
    "embed_text",
    "is_frozen",
    "load_avion",
    "load_image_tower",
    "load_text_tower",
    "load_video_tower",
    "media_features",
    "text_features",
]
