"""The public data sets that `mmts prepare` knows: their parts, where to get them, and the published counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmts.data.epic_kitchens import read_epic_kitchens
from mmts.data.formats.cc3m import read_cc3m
from mmts.data.formats.karpathy import karpathy_file, read_karpathy
from mmts.data.formats.youcook2 import read_youcook2
from mmts.data.records import Dataset


@dataclass(frozen=True)
class Part:
    """A part of a data set's folder: a file or folder that matches one of `patterns` (globs from the folder).

    `place` says where to put it, if the first pattern does not.
    """

    what: str
    patterns: tuple[str, ...]
    address: str
    size: str
    license: str
    required: bool = True
    place: str = ""


@dataclass(frozen=True)
class PublicSet:
    """A public data set: its parts, its reader, and how many media and captions were published, by split."""

    title: str
    parts: tuple[Part, ...]
    read: Callable[[Path], Dataset]
    published: Mapping[str, tuple[int, int]]
    remark: str = ""


_KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
_COCO_TERMS = "each photo has its own Creative Commons license, see https://cocodataset.org/#termsofuse"
_EPIC_ANNOTATIONS = "https://github.com/epic-kitchens/epic-kitchens-100-annotations"
_EPIC_LICENSE = "CC BY-NC 4.0"
_CC3M = "https://ai.google.com/research/ConceptualCaptions/download"
_CC3M_LICENSE = "free for any purpose if Google LLC is named; each image has its owner's license"


def _karpathy_part(name: str) -> Part:
    file = f"dataset_{name}.json"
    return Part("Karpathy's splits", (file, f"annotations/{file}"), _KARPATHY, "about 40 MB", "not stated")


def _coco_part(name: str, size: str) -> Part:
    address = f"http://images.cocodataset.org/zips/{name}.zip"
    return Part(f"photos of {name}", (name, f"images/{name}"), address, size, _COCO_TERMS)


def _epic_part(what: str, inner: str, name: str, size: str, required: bool = True) -> Part:
    outer = ("", "annotations/", "epic-kitchens-100-annotations/")
    patterns = tuple(dict.fromkeys(f"{base}{folder}{name}" for base in outer for folder in (inner, "")))
    return Part(what, patterns, _EPIC_ANNOTATIONS, size, _EPIC_LICENSE, required)


def _cc3m_parts(split: str, tsv: str, folders: tuple[str, ...], size: str, required: bool = True) -> tuple[Part, ...]:
    """Return the captions and the images of a split; shards contain both."""
    shards = ("*.tar", f"{split}/*.tar") if required else (f"{split}/*.tar", "validation/*.tar", "*val*.tar")
    return (
        Part(f"captions of {split} (or shards)", (tsv, *shards), _CC3M, size, _CC3M_LICENSE, required),
        Part(
            f"images of {split} (or shards)",
            (*folders, Path(tsv).stem, *shards),
            "download them with https://github.com/rom1504/img2dataset from the addresses",
            "their size depends on your scaling",
            "each image has its owner's license",
            required,
        ),
    )


PUBLIC_SETS: Mapping[str, PublicSet] = {
    "flickr30k": PublicSet(
        "Flickr30K",
        (
            _karpathy_part("flickr30k"),
            Part(
                "photos",
                ("flickr30k-images", "flickr30k_images", "images", "*.jpg"),
                "https://shannon.cs.illinois.edu/DenotationGraph/ (request it with the form)",
                "4.4 GB",
                "Flickr's terms of use; only non-commercial research and education",
            ),
        ),
        lambda root: read_karpathy(karpathy_file(root, "flickr30k")),
        {"train": (29_000, 145_000), "val": (1_014, 5_070), "test": (1_000, 5_000)},
        "31,783 photos are published; Karpathy's splits use 31,014 of them.",
    ),
    "coco": PublicSet(
        "MSCOCO",
        (_karpathy_part("coco"), _coco_part("train2014", "13 GB"), _coco_part("val2014", "6 GB")),
        lambda root: read_karpathy(karpathy_file(root, "coco")),
        {"train": (113_287, 566_747), "val": (5_000, 25_000), "test": (5_000, 25_000)},
        "The published count of train is 82,783 photos of train and 30,504 of restval.",
    ),
    "cc3m": PublicSet(
        "CC3M (Conceptual Captions)",
        (
            *_cc3m_parts("train", "Train_GCC-training.tsv", ("training", "images"), "about 500 MB"),
            *_cc3m_parts("val", "Validation_GCC-1.1.0-Validation.tsv", ("validation",), "about 3 MB", required=False),
        ),
        read_cc3m,
        {"train": (3_318_333, 3_318_333), "val": (15_840, 15_840)},
        "Only addresses are published; in December 2021, 2,905,954 images of train could be downloaded.",
    ),
    "ek100": PublicSet(
        "EPIC-KITCHENS-100 multi-instance retrieval",
        (
            *(
                _epic_part(f"{what} of {split}", "retrieval_annotations/", f"EPIC_100_retrieval_{split}{end}.csv", size)
                for split, sizes in (("train", ("about 8 MB", "1 MB")), ("test", ("1 MB", "0.1 MB")))
                for what, end, size in zip(("clips", "sentences"), ("", "_sentence"), sizes, strict=True)
            ),
            _epic_part("names of noun classes", "", "EPIC_100_noun_classes*.csv", "0.05 MB", required=False),
            _epic_part("names of verb classes", "", "EPIC_100_verb_classes.csv", "0.01 MB", required=False),
            Part(
                "videos (or chunks, frames, features)",
                (
                    *(
                        f"{base}/P[0-9][0-9]"
                        for base in ("videos", "video_320p_15sec", "EK100_320p_15sec_30fps_libx264")
                    ),
                    "EPIC-KITCHENS/P[0-9][0-9]",
                    "P[0-9][0-9]",
                    "features/*.npy",
                ),
                "https://github.com/epic-kitchens/epic-kitchens-download-scripts; in 15-second "
                "chunks at 320 pixels: https://utexas.box.com/v/ek100-320p-15sec-30fps",
                "about 1 TB as recorded",
                _EPIC_LICENSE,
                place="videos/P01/P01_01.MP4 and so on, or features/P01_01_0.npy and so on",
            ),
        ),
        read_epic_kitchens,
        {"train": (67_217, 15_989), "test": (9_668, 3_842)},
        "Captions are the sentences that the split is evaluated with.",
    ),
    "youcook2": PublicSet(
        "YouCook2",
        (
            Part(
                "annotations",
                ("youcookii_annotations_trainval.json", "annotations/youcookii_annotations_trainval.json"),
                "http://youcook2.eecs.umich.edu/download",
                "a few MB",
                "see that page",
            ),
            Part(
                "videos (or features)",
                ("videos", "raw_videos", "training", "validation", "*.mp4", "*.mkv", "*.webm", "features/*.npy"),
                "YouTube, with the script that comes with the annotations; many videos are gone",
                "2,000 videos, 176 hours in total; their size depends on the resolution",
                "each video has its owner's license",
                place="videos/<id>.mp4, or features/<id>_<segment>.npy",
            ),
        ),
        read_youcook2,
        {"train": (10_337, 10_337), "val": (3_492, 3_492)},
        "A medium is a segment of a video: train has 1,333 videos and val has 457.",
    ),
}
