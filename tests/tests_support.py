"""Small things several tests make."""

from collections.abc import Sequence
from pathlib import Path

from mmts.data.records import Medium, Split


def captioned_split(captions: Sequence[Sequence[str]], name: str = "test") -> Split:
    """Return a split of media 0, 1, ... with these captions; their files do not exist."""
    return Split(name, [Medium(str(i), Path(f"{i}.png"), tuple(each)) for i, each in enumerate(captions)])
