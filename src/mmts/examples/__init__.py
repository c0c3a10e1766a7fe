"""Small generated data sets in the public formats, for `--tiny` runs and for tests: drawn pictures, real layouts."""

from pathlib import Path


def draw_example(dataset: str, folder: Path, *, features: bool = False) -> Path:
    """Draw the example of flickr30k, coco, cc3m, ek100 or youcook2 into `folder`, and return what `--data` takes.

    Existing files are overwritten. `features`: feature rows instead of films, for ek100.
    """
    from mmts.examples.cc3m import draw_cc3m
    from mmts.examples.epic_kitchens import draw_ek100
    from mmts.examples.karpathy import draw_coco, draw_flickr30k
    from mmts.examples.youcook2 import draw_youcook2

    if dataset == "ek100":
        return draw_ek100(folder, layout="features" if features else "chunks")
    draw = {"flickr30k": draw_flickr30k, "coco": draw_coco, "cc3m": draw_cc3m, "youcook2": draw_youcook2}
    return draw[dataset](folder)
