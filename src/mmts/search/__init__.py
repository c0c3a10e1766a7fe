"""Search new images or clips with a trained run: an index on disk, queries of text or pictures, a local page."""

from mmts.search.build import build_index
from mmts.search.query import Searcher, open_searcher

__all__ = ["Searcher", "build_index", "open_searcher"]
