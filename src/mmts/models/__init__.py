"""Towers (image, video, text), heads, and the two-tower module: unit embeddings, no temperature inside."""

from mmts.models.avion import load_avion
from mmts.models.base import TextTower, Tower, is_frozen
from mmts.models.features import embed_media, embed_text, media_features, text_features
from mmts.models.heads import build_head
from mmts.models.image_towers import ImageTower, load_image_tower
from mmts.models.text_towers import Vocabulary, build_vocabulary, load_text_tower, needs_vocabulary
from mmts.models.two_tower import TwoTower, build_two_tower
from mmts.models.video_towers import VideoTower, load_video_tower

__all__ = [
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
    "needs_vocabulary",
    "text_features",
]
