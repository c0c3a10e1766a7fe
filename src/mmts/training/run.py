"""What `mmts train` does, from data to metrics.json."""

import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmts import __version__
from mmts.concepts import neighbour_counts
from mmts.console import console
from mmts.data.records import Dataset
from mmts.distributed.divided_state import copy_from_main
from mmts.distributed.processes import joined, main_first, on_main, once
from mmts.distributed.sharded_model import launcher_shards, refuse_old_torch
from mmts.errors import DataError, counted
from mmts.evaluation.classification import find_classes, read_prompts
from mmts.evaluation.compare import tables_of_change
from mmts.evaluation.results import START
from mmts.evaluation.run import score, validation
from mmts.files import cache_root, read_json, read_kept
from mmts.objectives import Objective
from mmts.recipe.components import RunFacts, build, checked_objective, outside_names
from mmts.recipe.recipe import Recipe, load_recipe, parse_recipe, with_whole_names
from mmts.recipe.run_directory import RunDirectory, dotted, trusting_code
from mmts.training.checkpoint import random_state, restore_random_state
from mmts.training.concepts import find_concepts, label_concepts
from mmts.training.experiment import Experiment, build_model, load_weights, two_tower_of
from mmts.training.inputs import Inputs, build_plan, prepare_inputs, training_batches
from mmts.training.sampling import check_sampling
from mmts.training.splits import open_data, readable_splits, resolved, take_splits
from mmts.training.trainer import Trainer


@joined()
def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    out: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    resume: bool = False,
    evaluate_on: str | None = None,
) -> dict[str, Any]:
    """Train by a recipe into the run directory `out`, evaluate the best checkpoint, and return metrics.json's content.

    Under torchrun or accelerate launch all processes train together (docs/scaling.md); only the main one reads and
    writes the run directory, and all return the same.

    recipe: the name of a shipped recipe, a YAML file, nested mappings, or a Recipe.
    out: a new folder, or with `resume` that of a run.
    data: a path as `--data` takes it, or a Dataset; None is the recipe's own.
    model: takes the place of the recipe's `model`. It has `embed_media(media)` and `embed_text(tokens)`, which
        return (B, D) of any norm, and `tokenize(captions)`, a tensor or a mapping of tensors, each (B, ...), which
        `embed_text` gets. `media` is float32 in [0, 1]: images (B, 3, S, S), S being its attribute `image_size`, or
        clips (B, F, 3, S, S), F being its `frames`; data of precomputed features give rows (B, W). Its `resize`
        is "stretch" (the default), "crop" or "pad". What does not require a gradient is not trained, or saved.
    objective: takes the place of the recipe's `objective`.
    resume: go on with the run in `out`; with objects of the same classes if it was given objects.
    evaluate_on: evaluate on this split instead of test, which is then not touched; tuning takes "val".

    The recipe of a run cannot rebuild objects: later `mmts evaluate` refuses a run that was given a model. Raises
    DataError, RecipeError, RunError or InputError for what the user can put right, and Interrupted after Ctrl-C or
    SIGTERM, with a checkpoint written.
    """
    run = RunDirectory(Path(out))
    if isinstance(recipe, str | Path):
        recipe = load_recipe(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = parse_recipe(with_whole_names(recipe, Path()))
    trusted = outside_names(recipe.objective, recipe.model.tower_names)
    with trusting_code(trusted.__contains__), on_main(lambda: run.held(resume)):
        return _train(recipe, run, data, model, objective, resume, evaluate_on)


def _train(
    recipe: Recipe,
    run: RunDirectory,
    data: str | Path | Dataset | None,
    own_model: nn.Module | None,
    own_objective: Objective | None,
    resume: bool,
    evaluate_on: str | None,
) -> dict[str, Any]:
    """Train as `train` describes; the caller holds the run directory's lock."""
    kinds = {"model": type(own_model), "objective": type(own_objective)}
    own = {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in kinds.items() if kind is not type(None)}
    suffix = f" with {' and '.join(name.rpartition(':')[2] for name in own.values())}" if own else ""
    if not recipe.name.endswith(suffix):  # so that comparisons and reports tell such runs apart
        recipe = recipe.model_copy(update={"name": recipe.name + suffix})

    if launcher_shards():
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"shard": True})})
    if recipe.train.shard:
        refuse_old_torch()

    # The data, and the run directory that they are recorded in.
    recipe, dataset = _open_data(recipe, run, data, resume)
    once(lambda: run.begin(recipe, versions(), own))
    if once(lambda: run.is_finished):
        console.print(f"{run.path} is finished already")
        return once(lambda: dict(read_json(run.metrics_file)))
    chosen = take_splits(dataset, recipe, evaluate_on)

    # What to classify and to sample by: what is wrong with it is an error now, not after training.
    by: tuple[str, Sequence[str]] | None = None
    if (label := recipe.evaluation.classify) is not None:
        by = label, once(lambda: read_prompts(recipe.evaluation.prompts, recipe.model.kind))
        find_classes(*by, chosen.train, chosen.final)
    if recipe.data.sampling is not None:
        check_sampling(recipe.data.sampling, recipe.train, chosen.train)

    # The model, before the media are checked: a tower that cannot be loaded fails in seconds, not hours.
    torch.manual_seed(recipe.train.seed)
    media = chosen.train.media
    if own_model is not None:
        model = two_tower_of(own_model, media[0])
    else:
        model = build_model(recipe.model, media, run, chosen.train.captions)
    modules = [model] if own_objective is None else [model, own_objective]
    recipe.check_something_trains(any(value.requires_grad for module in modules for value in module.parameters()))
    width, start = model.width, recipe.model.start if own_model is None else None
    scale = model.temperature, model.logit_bias
    if own_objective is None:
        checked_objective(recipe.objective, width, scale, partial(label_concepts, chosen.train))
    drawn = random_state()

    # The concepts of the training samples, the objective, and what the model is fed.
    splits = readable_splits(chosen, dataset, recipe.data, run, model.media_tower)
    concepts = find_concepts(recipe.concepts, splits.train, run)
    sizes = splits.train.num_media, splits.train.num_captions
    neighbours, by_label = partial(neighbour_counts, splits.train.captions), partial(label_concepts, splits.train)
    facts = RunFacts(concepts, *sizes, width, neighbours, *scale, label_concepts=by_label)
    restore_random_state(drawn)  # so that training draws the same whether concepts and features were computed or not
    objective = build(recipe.objective, facts) if own_objective is None else own_objective
    drawn = random_state()
    once(lambda: run.go_on(recipe, versions(), own))
    experiment = Experiment(run, recipe, dataset, concepts, model)
    inputs = prepare_inputs(model, splits.train)
    final = splits.final
    classes = {} if by is None else {final.name: find_classes(*by, splits.train, final)}
    evaluated = {
        split.name: prepare_inputs(model, split.judged(recipe.data.relevance), classes.get(split.name))
        for split in splits.evaluated()
    }
    evaluate = validation(experiment, evaluated, splits.val.name) if splits.val is not None else None
    model.drop_frozen()

    # The steps.
    restore_random_state(drawn)
    plan = build_plan(recipe, splits.train, concepts)
    trainer = Trainer(
        model,
        objective,
        recipe.train,
        run,
        batches=training_batches(model, inputs, plan, recipe.data, recipe.train.seed, objective.uses_relevance),
        batches_per_epoch=plan.batches_per_epoch,
        batch_size=plan.batch_size,
        evaluate=evaluate,
        groups=concepts.groups(),
        recipe=dotted(recipe.model_dump(mode="json")),
        tower_rates=recipe.model.tower_rates if own_model is None else {},
        keeps_start=start is not None,
    )
    parameters = counted(sum(value.numel() for value in trainer.trainable), "parameter")
    console.print(f"training {parameters} for {counted(trainer.total_steps, 'step')} into {run.path}")

    def load_best() -> None:
        load_weights(model, run, "best")

    def evaluate_best() -> dict[str, Any]:
        once(load_best)
        copy_from_main(model)
        metrics, _, _ = score(experiment, evaluated[final.name], run.metrics_file)
        for table in tables_of_change(run) if "before" in metrics else ():
            console.print(table)
        return metrics

    for file in (run.interpolation_file, run.checkpoint_file("interpolated")):
        once(partial(file.unlink, missing_ok=True))  # of weights that training goes beyond now
    if start is not None and trainer.total_steps:
        with trainer.evaluated_weights():
            _evaluate_start(experiment, evaluated[final.name])
    try:
        metrics = trainer.fit(resume, evaluate_best)
    except DataError as error:
        if not splits.train.media_checked:
            raise
        remedy = f"repair it and --resume, or remove the index ({cache_root()}) to have it left out"
        raise DataError(f"{error}. It was readable when the data were indexed: {remedy}") from None
    if recipe.published is not None and recipe.published.results:
        results = ", ".join(f"{name} {value:.1f}" for name, value in recipe.published.results.items())
        console.print(f"published: {results} ({recipe.published.source})")
    return metrics


def _open_data(
    recipe: Recipe, run: RunDirectory, data: str | Path | Dataset | None, resume: bool
) -> tuple[Recipe, Dataset]:
    """Return the data, and the recipe with their absolute path."""
    if data is not None:
        recipe = recipe.with_data(data.path if isinstance(data, Dataset) else Path(data))
    elif resume and recipe.data.path is None:
        recipe = recipe.with_data(once(lambda: run.recipe().data.path if run.recipe_file.exists() else None))
    dataset = main_first(lambda: open_data(recipe.data, data if isinstance(data, Dataset) else None))
    return recipe.with_data(resolved(recipe.data.path)), dataset


def _evaluate_start(experiment: Experiment, inputs: Inputs) -> None:
    """Evaluate the pretrained pair, unless a run that is resumed did so with the same classes."""
    file, classes = experiment.run.before_file, inputs.classes
    before = (read_kept(file) or {}).get("classification") or {}
    now = (None, []) if classes is None else (classes.label, [*classes.templates])
    if not file.exists() or (before.get("label"), before.get("prompts", [])) != now:
        console.print(f"before training, {experiment.recipe.model.start}:")
        score(experiment, inputs, file, START)


def versions() -> dict[str, str]:
    """Return the versions that a run records."""
    packages = ("torch", "transformers", "sentence-transformers", "accelerate", "faiss-cpu", "numpy")
    own = {"mmts": __version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in packages}
