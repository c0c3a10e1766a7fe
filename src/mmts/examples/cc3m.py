"""Draw a small CC3M: the official TSV files with images by row number, and shards as img2dataset writes them."""

import io
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mmts.examples.drawing import COLOURS, SHAPES, picture, write_image

_TRAIN = 30
_VAL = 8
_PER_SHARD = 12
_PLACES = (("on the left", 0.0), ("in the middle", 0.5), ("on the right", 1.0))
_FAILED = 7  # every seventh download


class _Drawn(NamedTuple):
    caption: str
    colour: str
    shape: str
    phase: float


def draw_cc3m(folder: Path) -> Path:
    """Write the two TSV files and the images that could be "downloaded", and return the folder.

    Training images lie as img2dataset's output format "files" lays them (00000/000000012.jpg, the number is the row),
    validation images plainly by row number.
    """
    for name, count, pattern in (
        ("Train_GCC-training.tsv", _TRAIN, "training/00000/{:09d}.jpg"),
        ("Validation_GCC-1.1.0-Validation.tsv", _VAL, "validation/{}.jpg"),
    ):
        rows = [_drawn(number) for number in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(
            "".join(f"{each.caption}\thttp://example.com/{number}.jpg\n" for number, each in enumerate(rows))
        )
        for number, each in enumerate(rows):
            if not _failed(number):
                write_image(folder / pattern.format(number), picture(each.colour, each.shape, each.phase))
    return folder


def draw_shards(folder: Path) -> Path:
    """Write three shards with the files that img2dataset puts beside them, and return the folder.

    A failed download has a line in the statistics and no file in the tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        numbers = range(shard * _PER_SHARD, (shard + 1) * _PER_SHARD)
        good = [number for number in numbers if not _failed(number)]
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for number in good:
                # As img2dataset numbers them: the shard, then four digits for the place in it.
                _add_sample(archive, f"{shard:05d}{number - numbers[0]:04d}", _drawn(number))
        statistics = {
            "count": len(numbers),
            "successes": len(good),
            "failed_to_download": len(numbers) - len(good),
            "failed_to_resize": 0,
            "duration": 1.0,
            "start_time": 0.0,
            "end_time": 1.0,
            "status_dict": {"success": len(good), "HTTP Error 404: Not Found": len(numbers) - len(good)},
        }
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(statistics, indent=4))
    return folder


def _drawn(number: int) -> _Drawn:
    # Squares of small numbers fall together: the first colours and shapes are drawn most often.
    colour = list(COLOURS)[(number % 6) ** 2 * 4 // 36]
    shape = SHAPES[(number // 6 % 4) ** 2 * 3 // 16]
    place, phase = _PLACES[number % len(_PLACES)]
    return _Drawn(f"a {colour} {shape} {place} of a grey wall", colour, shape, phase)


def _failed(number: int) -> bool:
    return number % _FAILED == _FAILED - 1


def _add_sample(archive: tarfile.TarFile, key: str, drawn: _Drawn) -> None:
    jpeg = io.BytesIO()
    image = Image.fromarray(picture(drawn.colour, drawn.shape, drawn.phase))
    image.save(jpeg, "JPEG")
    about = {
        "caption": drawn.caption,
        "url": f"http://example.com/{key}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": image.width,
        "height": image.height,
        "original_width": image.width,
        "original_height": image.height,
        "exif": "{}",
    }
    for suffix, data in (
        ("jpg", jpeg.getvalue()),
        ("json", json.dumps(about, indent=4).encode()),
        ("txt", drawn.caption.encode()),
    ):
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        member.mtime = 1_700_000_000.25  # a fraction, as webdataset writes: a PAX header
        archive.addfile(member, io.BytesIO(data))
