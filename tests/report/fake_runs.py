"""Run directories as training leaves them, made up: three rules by three seeds over drawn pictures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmts.concepts import ConceptDistribution
from mmts.evaluation.measures import GRADED
from mmts.recipe.recipe import Recipe, parse_recipe, save_recipe
from mmts.recipe.run_directory import RunDirectory

FIXED = {"rule": "fixed", "value": 0.07}
LEARNED = {"rule": "learned"}
SHIFTED = {"rule": "shifted"}
RULES: dict[str, dict[str, Any]] = {"fixed": FIXED, "learned": LEARNED, "mm-ts": SHIFTED}
COLORS = ["red", "blue", "green", "orange", "purple", "teal", "grey", "brown"]
SHAPES = ["circle", "square", "triangle", "ring", "star"]
VERSIONS = {"mmts": "0.1.0", "python": "3.12.3", "torch": "2.13.0"}
RATES = ((1, "R@1"), (5, "R@5"), (10, "R@10"))


def recipe(name: str = "fixed", rule: dict[str, Any] | None = None, seed: int = 0, **more: Any) -> Recipe:
    objective = more.pop("objective", {"loss": "info_nce", "temperature": rule or FIXED})
    train = {"epochs": 20, "seed": seed}
    return parse_recipe({"name": name, "objective": objective, "train": train, **more}, "test recipe")


def draw_pictures(folder: Path, num_media: int) -> list[str]:
    """Draw simple coloured shapes; return their captions."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    captions = []
    for at in range(num_media):
        color, shape = COLORS[at % len(COLORS)], SHAPES[(at // len(COLORS)) % len(SHAPES)]
        picture = Image.new("RGB", (120, 120), "white")
        pen = ImageDraw.Draw(picture)
        box = (14 + at % 7, 14, 104, 104 - at % 5)
        if shape == "circle":
            pen.ellipse(box, fill=color)
        elif shape == "square":
            pen.rectangle(box, fill=color)
        elif shape == "triangle":
            pen.polygon([(60, 12), (108, 104), (12, 104)], fill=color)
        elif shape == "ring":
            pen.ellipse(box, outline=color, width=16)
        else:
            points = [
                (
                    60 + (50 if k % 2 else 22) * math.sin(math.pi * k / 5),
                    60 + (50 if k % 2 else 22) * math.cos(math.pi * k / 5),
                )
                for k in range(10)
            ]
            pen.polygon(points, fill=color)
        picture.save(folder / "images" / f"{at}.png")
        captions.append(f"a {color} {shape}" + (f" number {at // 40 + 1}" if at >= 40 else ""))
    return captions


def recalls(ranks: np.ndarray[Any, Any]) -> dict[str, float] | None:
    if not len(ranks):
        return None
    return {name: 100 * float((ranks <= k).mean()) for k, name in RATES} | {"median_rank": float(np.median(ranks))}


def interval(share: float) -> list[float]:
    return [100 * max(0.0, share - 0.05), 100 * min(1.0, share + 0.05)]


def write_run(
    path: Path,
    made_by: Recipe,
    data: Path,
    captions: Sequence[str],
    *,
    skill: float = 0.0,
    concept_names: Sequence[str] | None = None,
    kind: str = "image",
    with_val: bool = True,
    num_concepts: int = 40,
) -> Path:
    """Write one run directory in the format of the real thing."""
    run = RunDirectory(path)
    path.mkdir(parents=True)
    save_recipe(made_by, run.recipe_file, VERSIONS)
    names = list(concept_names or [f"{COLORS[at % 8]}, {SHAPES[at % 5]}, thing {at}" for at in range(num_concepts)])
    sizes = [max(1, round(400 / (at + 1) ** 1.25)) for at in range(len(names))]
    distribution = ConceptDistribution.from_labels(
        [name for name, size in zip(names, sizes, strict=True) for _ in range(size)]
    )
    distribution.save(run.concepts_file)

    noise = np.random.default_rng(made_by.train.seed + 100 * len(made_by.name))
    queries = np.random.default_rng(7)
    total = len(captions)
    concepts = np.minimum(queries.geometric(0.09, total) - 1, len(names) - 1)
    groups = distribution.concept_groups().numpy().astype(np.int8)[concepts]
    difficulty = queries.normal(0.2 * groups, 1.1)

    def ranks_and_top() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        score = difficulty - skill + noise.normal(0, 0.25, total)
        ranks = np.clip(np.exp(1.2 * score).astype(int) + 1, 1, total)
        columns = min(10, total)
        top, right = np.zeros((total, columns), dtype=np.int64), np.zeros((total, columns), dtype=bool)
        for row in range(total):
            others = np.delete(np.arange(total), row)
            top[row] = noise.permutation(others)[:columns] if total > columns else np.arange(columns)
            if ranks[row] <= columns:
                top[row, ranks[row] - 1], right[row, ranks[row] - 1] = row, True
        return ranks, top, right

    text_ranks, text_top, text_right = ranks_and_top()
    media_ranks, media_top, media_right = ranks_and_top()
    to_media, to_text = f"text_to_{kind}", f"{kind}_to_text"
    parts: dict[str, Any] = {}
    for number, part in enumerate(("head", "mid", "tail")):
        inside = groups == number
        parts[part] = {
            "num_queries": int(inside.sum()),
            to_media: recalls(text_ranks[inside]),
            to_text: recalls(media_ranks[inside]),
        } if inside.any() else None  # fmt: skip
    metrics = {
        "split": "test", "num_media": total, "num_captions": total,
        to_text: recalls(media_ranks), to_media: recalls(text_ranks), "groups": parts,
        "intervals": {
            direction: {name: interval((ranks <= k).mean()) for k, name in RATES}
            for direction, ranks in ((to_media, text_ranks), (to_text, media_ranks))
        },
    }  # fmt: skip
    run.metrics_file.write_text(json.dumps(metrics))
    meta = {
        "split": "test", "kind": kind, "relevance": "text", "data": str(data),
        "media_ids": [str(at) for at in range(total)], "media_paths": [f"images/{at}.png" for at in range(total)],
        "captions": list(captions),
    }  # fmt: skip
    np.savez_compressed(
        run.judgement_file, text_ranks=text_ranks, media_ranks=media_ranks, text_groups=groups, media_groups=groups,
        owner=np.arange(total), text_top=text_top, text_top_relevant=text_right, media_top=media_top,
        media_top_relevant=media_right, text_concepts=concepts, meta=np.array(json.dumps(meta)),
    )  # fmt: skip

    word = "temperature" if made_by.objective.loss == "info_nce" else "margin"
    with run.log_file.open("w") as log:
        for step in range(0, 400, 4):
            p = step / 400
            value = 0.07 * math.exp(-1.1 * p) if made_by.name == "learned" else 0.07
            line: dict[str, Any] = {
                "step": step, "progress": p, "epoch": step // 20, "lr": 1e-3 * (1 - p),
                "loss": 0.6 + 3.2 * math.exp(-5 * p) + float(noise.normal(0, 0.08)) + 0.2 * len(made_by.name) % 3,
                word: {"min": value, "mean": value, "max": value},
            }  # fmt: skip
            if with_val and step % 20 == 16:
                reached = (1 - math.exp(-6 * p)) * 52 + float(noise.normal(0, 0.5)) + 4 * skill
                figures = {"R@1": reached, "R@5": reached + 18, "R@10": reached + 25, "median_rank": 1.0}
                line["val"] = {to_media: figures, to_text: {**figures, "R@1": reached - 1.5}}
            log.write(json.dumps(line) + "\n")
    return path


def three_rules(folder: Path, num_media: int = 240, seeds: Sequence[int] = (0, 1, 2)) -> list[Path]:
    """Write three rules by some seeds; the data folder stands beside them."""
    data = folder / "data"
    captions = draw_pictures(data, num_media)
    skills = {"fixed": 0.0, "learned": -0.12, "mm-ts": 0.03}
    return [
        write_run(folder / f"{name}-{seed}", recipe(name, rule, seed), data, captions, skill=skills[name])
        for name, rule in RULES.items()
        for seed in seeds
    ]


def make_graded(path: Path) -> Path:
    """Turn a run into one judged by graded relevance; a query's scores are 1 by its rank."""
    run = RunDirectory(path)
    with np.load(run.judgement_file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    kind = json.loads(str(arrays["meta"]))["kind"]
    metrics = json.loads(run.metrics_file.read_text())
    for side, direction in (("text", f"text_to_{kind}"), ("media", f"{kind}_to_text")):
        graded = np.repeat(1 / arrays[f"{side}_ranks"][:, None], 3, axis=1)
        arrays[f"{side}_graded"] = graded
        metrics["intervals"][direction] |= {name: interval(graded.mean()) for name in GRADED}
        parts = [(metrics, np.ones(len(graded), dtype=bool))]
        for number, part in enumerate(("head", "mid", "tail")):
            parts.append((metrics["groups"][part], arrays[f"{side}_groups"] == number))
        for place, inside in parts:
            if place is not None:
                place[direction] = dict.fromkeys(GRADED, 100 * graded[inside].mean()) | place[direction]
    np.savez_compressed(run.judgement_file, **arrays)
    return write_metrics(path, **metrics)


def write_metrics(path: Path, **more: Any) -> Path:
    """Add to a run's metrics.json."""
    file = RunDirectory(path).metrics_file
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return path
