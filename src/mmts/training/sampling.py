"""What `data.sampling` of a recipe asks for: checked before any hours of work, built, and put in words."""

from copy import copy

import torch

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import TAIL
from mmts.data.batches.epoch_plan import EpochPlan
from mmts.data.batches.sampling import ConceptAware, Sampling, repeat_factors, size_weights, super_batch_size
from mmts.data.records import Split
from mmts.errors import InputError, RecipeError, percent, plain
from mmts.recipe import sections
from mmts.recipe.sections import Train
from mmts.training.concepts import label_concepts


def check_sampling(section: sections.Sampling, length: Train, train: Split) -> None:
    """Raise DataError for a training medium without the label, RecipeError for a super-batch larger than the data."""
    if section.by != "concept":
        label_concepts(train, section.by, "data.sampling.by")
    plan = EpochPlan(None, train.num_media, length.batch_size, length.seed)
    if section.cabs is not None:
        try:
            super_batch_size(plan.batch_size, section.cabs.filter, train.num_media)
        except InputError as error:
            raise RecipeError(f"data.sampling.cabs: {error}") from None
    sampled_epochs(section, length, plan.batches_per_epoch)


def build_sampling(section: sections.Sampling, length: Train, concepts: ConceptDistribution) -> Sampling:
    """Return how pairs are drawn, given the concepts by which they are."""
    counts = concepts.counts.numpy()
    if section.repeat is None:
        weights = size_weights(counts, section.power, section.cap)
    else:
        weights = repeat_factors(counts, section.repeat)
    cabs = None
    if section.cabs is not None:
        offsets, ids = (part.numpy() for part in concepts.members)
        cabs = ConceptAware(section.cabs.filter, offsets, ids, section.cabs.most)
    return Sampling(weights, lambda epoch, num_batches: epoch in sampled_epochs(section, length, num_batches), cabs)


def sampled_epochs(section: sections.Sampling, length: Train, num_batches: int) -> range:
    """Return the epochs that begin at a progress in [start, end); RecipeError if there are steps but no such epoch."""
    total = length.total_steps(num_batches)
    inside = [at for at, step in enumerate(range(0, total, num_batches)) if section.start <= step / total < section.end]
    if total and not inside:
        when = f"progress {plain(section.start)} or later and before {plain(section.end)}, and none does"
        remedy = "lower start, raise end, or train for more epochs"
        raise RecipeError(f"data.sampling applies to epochs that begin at {when}; {remedy}")
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def sampling_in_words(section: sections.Sampling, length: Train, concepts: ConceptDistribution, plan: EpochPlan) -> str:
    """Say which pairs are drawn in which epochs, and how that changes the tail's share of the first of them."""
    epochs = sampled_epochs(section, length, plan.batches_per_epoch)
    changes = section.model_dump(include={"power", "cap", "repeat"}, exclude_defaults=True)
    words = ", ".join([f"sampling by {section.by}", *(f"{name} {plain(value)}" for name, value in changes.items())])
    if section.cabs is not None:
        words += f", CABS with filter {plain(section.cabs.filter)}"
    if (section.start, section.end) != (0, 1):
        words += f", in epochs {epochs[0] + 1} to {epochs[-1] + 1}"
    without = copy(plan)
    without.sampling = None
    before, after = (percent(_tail_share(each, epochs[0], concepts)) for each in (without, plan))
    return f"{words}: the tail's share of an epoch goes from {before} to {after}"


def _tail_share(plan: EpochPlan, epoch: int, concepts: ConceptDistribution) -> float:
    index = torch.cat([batch.index for batch in plan.batches(epoch)])
    return float((concepts.groups()[index] == TAIL).double().mean())
