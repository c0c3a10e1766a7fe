"""What one item costs on one core, and how many bytes it keeps: the numbers behind docs/scaling.md.

`python -m benchmarks.costs` prints them. Times are of the processor, so that other work on the machine counts little.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import photo
from benchmarks.towers import some_captions, uncached
from mmts.concepts.encoders import encode_captions
from mmts.concepts.kmeans import nearest
from mmts.console import console
from mmts.data.pair_table import write_pair_table
from mmts.data.records import Medium, Split
from mmts.evaluation.rank import judge
from mmts.losses import unit
from mmts.models import load_image_tower, media_features
from mmts.objectives import FastCLIP, InfoNCE, ISogCLR, Objective, SogCLR, TempNet
from mmts.policies import Shifted
from mmts.schedules import Constant


def run(captions: int = 256, images: int = 16, rows: int = 16_384, queries: int = 2_000) -> Iterator[str]:
    """Yield rows of a table: what, its setting, its cost."""
    texts = some_captions(captions)
    yield _time("caption encoded (minilm)", "3 to 25 words", captions, lambda: encode_captions(texts, cache=False))
    with tempfile.TemporaryDirectory() as folder:
        media = [Medium(str(i), photo(Path(folder) / f"{i}.jpg", 640, 480, i), ("x",)) for i in range(images)]
        tower = load_image_tower("efficientnet-lite0", size=128)
        tower.freeze()
        features = uncached(lambda: media_features(tower, media))
        yield _time("image decoded, its features", "640x480, lite0 at 128 px", images, features)
        yield _bytes_of_table(Path(folder), texts)
    values, centroids = (torch.randn(each, 384).numpy() for each in (rows, 1_000))
    yield _time("row assigned to a concept", "384 wide, K = 1,000", rows, lambda: nearest(values, centroids, 4096))
    yield _judged(queries, queries)
    yield _judged(16, 1_000_000)
    yield _bytes_a_sample("MM-TS", lambda N: InfoNCE(Shifted(Constant(0.1), torch.zeros(N))))
    yield _bytes_a_sample("SogCLR", lambda N: SogCLR(N, N, 0.05))
    yield _bytes_a_sample("iSogCLR", lambda N: ISogCLR(N, N))
    yield _bytes_a_sample("FastCLIP", lambda N: FastCLIP(N, N))
    yield _bytes_a_sample("TempNet", lambda N: TempNet(N, N, width=8))


def _judged(media: int, captions: int) -> str:
    each = captions // media
    named = [tuple(f"caption {i} {j}" for j in range(each)) for i in range(media)]
    split = Split("test", [Medium(str(i), Path(f"{i}.jpg"), names) for i, names in enumerate(named)])
    x, y = unit(torch.randn(media, 256)), unit(torch.randn(captions, 256))
    setting = f"{media:,} media, {captions:,} captions, 256 wide"
    return _time("pair judged, both directions", setting, media * captions, lambda: judge(x, y, split, "own"))


def _time(what: str, setting: str, items: int, work: Callable[[], object]) -> str:
    work()
    start = time.process_time()
    work()
    each = (time.process_time() - start) / items
    name, power = next(each_unit for each_unit in (("ms", 3), ("µs", 6), ("ns", 9)) if each * 10 ** each_unit[1] > 1)
    return f"| {what} | {setting} | {each * 10**power:.1f} {name} |"


def _bytes_a_sample(what: str, build: Callable[[int], Objective]) -> str:
    small, large = (sum(each.nbytes for each in build(N).state_dict().values()) for N in (1_000, 2_000))
    return f"| sample in the state of {what} | a medium a sample | {(large - small) / 1_000:.0f} bytes |"


def _bytes_of_table(folder: Path, captions: list[str]) -> str:
    with write_pair_table(folder / "table", folder, ["train"]) as writer:
        for number, caption in enumerate(captions):
            writer.add(f"{number:09}", caption, "00000.tar", "train", (512 * number, 512))
    size = sum(each.stat().st_size for each in (folder / "table").iterdir())
    text = np.mean([len(each.encode()) for each in captions])
    setting = f"an id of 9 and a caption of {text:.0f} bytes"
    return f"| pair in the table of pairs, on disk | {setting} | {size / len(captions):.0f} bytes |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in run():
        console.print(row)
