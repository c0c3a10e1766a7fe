"""Draw a small CC3M: the official TSV files with images by row number, and shards as img2dataset writes them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmts.examples.drawing import COLOURS, SHAPES, picture, write_image

_PER_SHARD = 12
_PLACES = (("on the left", 0.0), ("in the middle", 0.5), ("on the right", 1.0))


def draw_cc3m(folder: Path) -> Path:
    """Write the two TSV files and the images that could be "downloaded", and return the folder.

    Training images are named as in img2dataset's output format "files" (00000/000000012.jpg, the number is the row),
    validation images by row number alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, pattern in (
        ("Train_GCC-training.tsv", 30, "training/00000/{:09d}.jpg"),
        ("Validation_GCC-1.1.0-Validation.tsv", 8, "validation/{}.jpg"),
    ):
        lines = [f"{_sample(number)[0]}\thttp://example.com/{number}.jpg\n" for number in range(count)]
        (folder / name).write_text("".join(lines))
        for number in filter(_is_downloaded, range(count)):
            write_image(folder / pattern.format(number), _sample(number)[1])
    return folder


def draw_shards(folder: Path) -> Path:
    """Write three shards with the files that img2dataset puts beside them, and return the folder.

    A failed download is counted in the statistics and has no file in the tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(3):
        numbers = range(shard * _PER_SHARD, (shard + 1) * _PER_SHARD)
        good = list(filter(_is_downloaded, numbers))
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for number in good:
                # img2dataset numbers samples by shard and place in it.
                _add_sample(archive, f"{shard:05d}{number - numbers[0]:04d}", number)
        failed = len(numbers) - len(good)
        statistics = {"count": len(numbers), "successes": len(good), "failed_to_download": failed}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(statistics, indent=4))
    return folder


def _sample(number: int) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return a caption and its picture."""
    # Squares of small numbers coincide, so the first colors and shapes are drawn most often.
    color = list(COLOURS)[(number % 6) ** 2 * 4 // 36]
    shape = SHAPES[(number // 6 % 4) ** 2 * 3 // 16]
    place, phase = _PLACES[number % len(_PLACES)]
    return f"a {color} {shape} {place} of a grey wall", picture(color, shape, phase)


def _is_downloaded(number: int) -> bool:
    return number % 7 != 6


def _add_sample(archive: tarfile.TarFile, key: str, number: int) -> None:
    caption, pixels = _sample(number)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG")
    about = {"caption": caption, "url": f"http://example.com/{key}.jpg", "key": key, "status": "success"}
    contents = {"jpg": jpeg.getvalue(), "json": json.dumps(about, indent=4).encode(), "txt": caption.encode()}
    for suffix, data in contents.items():
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(data)
        member.mtime = 1_700_000_000.25  # a fraction, as webdataset writes: a PAX header
        archive.addfile(member, io.BytesIO(data))
