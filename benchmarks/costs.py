"""The time that one item takes on one core, and the bytes that it occupies: the numbers in docs/scaling.md.

`python -m benchmarks.costs` prints them. Times are CPU times, so other work on the machine hardly affects them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import photo
from benchmarks.towers import some_captions, uncached
from mmts.concepts.kmeans import nearest
from mmts.console import console
from mmts.data.pair_table import write_pair_table
from mmts.data.records import Medium, Split
from mmts.evaluation.rank import judge
from mmts.losses import unit
from mmts.models import load_image_tower, load_text_tower, media_features, text_features
from mmts.objectives import NUCLR, FastCLIP, InfoNCE, ISogCLR, Objective, SogCLR, TempNet
from mmts.policies import Shifted
from mmts.schedules import Constant


def run(captions: int = 256, images: int = 16, rows: int = 16_384, queries: int = 2_000) -> Iterator[str]:
    """Yield the rows of a table: what is done, the setting, the cost."""
    texts = some_captions(captions)
    encoder = load_text_tower("minilm")
    yield _time(
        "encode a caption (minilm)", "3 to 25 words", captions, lambda: text_features(encoder, texts, cached=False)
    )
    with tempfile.TemporaryDirectory() as folder:
        media = [Medium(str(i), photo(Path(folder) / f"{i}.jpg", 640, 480, i), ("x",)) for i in range(images)]
        tower = load_image_tower("efficientnet-lite0", size=128)
        tower.freeze()
        features = uncached(lambda: media_features(tower, media))
        yield _time("decode an image and compute its features", "640x480, lite0 at 128 px", images, features)
        yield _bytes_of_table(Path(folder), texts)
    values, centroids = torch.randn(rows, 384).numpy(), torch.randn(1_000, 384).numpy()
    yield _time("assign a row to a concept", "D = 384, K = 1,000", rows, lambda: nearest(values, centroids, 4096))
    yield _rank_pairs(queries, queries)
    yield _rank_pairs(16, 1_000_000)
    yield _bytes_per_sample("MM-TS", lambda N: InfoNCE(Shifted(Constant(0.1), torch.zeros(N))))
    yield _bytes_per_sample("SogCLR", lambda N: SogCLR(N, N, 0.05))
    yield _bytes_per_sample("iSogCLR", lambda N: ISogCLR(N, N))
    yield _bytes_per_sample("FastCLIP", lambda N: FastCLIP(N, N))
    yield _bytes_per_sample("TempNet", lambda N: TempNet(N, N, width=8))
    yield _bytes_per_sample("NUCLR", lambda N: NUCLR(N, N, 0.05))


def _rank_pairs(M: int, N: int) -> str:
    captions = [tuple(f"caption {i} {j}" for j in range(N // M)) for i in range(M)]
    split = Split("test", [Medium(str(i), Path(f"{i}.jpg"), captions[i]) for i in range(M)])
    x, y = unit(torch.randn(M, 256)), unit(torch.randn(N, 256))
    setting = f"M = {M:,} media, N = {N:,} captions, D = 256"
    return _time("rank a pair in both directions", setting, M * N, lambda: judge(x, y, split, "own"))


def _time(what: str, setting: str, items: int, work: Callable[[], object]) -> str:
    work()
    start = time.process_time()
    work()
    seconds = (time.process_time() - start) / items
    name, power = next((name, power) for name, power in (("ms", 3), ("µs", 6), ("ns", 9)) if seconds * 10**power > 1)
    return f"| {what} | {setting} | {seconds * 10**power:.1f} {name} |"


def _bytes_per_sample(what: str, build: Callable[[int], Objective]) -> str:
    small, large = (sum(tensor.nbytes for tensor in build(N).state_dict().values()) for N in (1_000, 2_000))
    return f"| state of {what} per sample | one medium per sample | {(large - small) / 1_000:.0f} bytes |"


def _bytes_of_table(folder: Path, captions: list[str]) -> str:
    rows = [(f"{at:09}", caption, "00000.tar", "train", (512 * at, 512)) for at, caption in enumerate(captions)]
    write_pair_table(folder / "table", folder, ["train"], rows)
    size = sum(path.stat().st_size for path in (folder / "table").iterdir())
    length = np.mean([len(caption.encode()) for caption in captions])
    setting = f"an id of 9 and a caption of {length:.0f} bytes"
    return f"| one pair in the table of pairs, on disk | {setting} | {size / len(captions):.0f} bytes |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in run():
        console.print(row)
