"""Towers (image, video, text), heads, and the two-tower module: unit embeddings, no temperature inside.

The signature of a tower's constructor lists its options in a recipe, and the docstring of its class explains them.
"""

from mmts.models.base import ImageTower as ImageTower
from mmts.models.base import TextTower as TextTower
from mmts.models.base import Tower as Tower
from mmts.models.base import VideoTower as VideoTower
from mmts.models.base import is_frozen as is_frozen
from mmts.models.features import embed_media as embed_media
from mmts.models.features import embed_text as embed_text
from mmts.models.features import media_features as media_features
from mmts.models.features import text_features as text_features
from mmts.models.image_towers import IMAGE_TOWERS as IMAGE_TOWERS
from mmts.models.image_towers import load_image_tower as load_image_tower
from mmts.models.text_towers import TEXT_TOWERS as TEXT_TOWERS
from mmts.models.text_towers import Vocabulary as Vocabulary
from mmts.models.text_towers import build_vocabulary as build_vocabulary
from mmts.models.text_towers import load_text_tower as load_text_tower
from mmts.models.two_tower import TwoTower as TwoTower
from mmts.models.two_tower import build_head as build_head
from mmts.models.two_tower import build_two_tower as build_two_tower
from mmts.models.two_tower import load_avion as load_avion
from mmts.models.video_towers import VIDEO_TOWERS as VIDEO_TOWERS
from mmts.models.video_towers import load_video_tower as load_video_tower
