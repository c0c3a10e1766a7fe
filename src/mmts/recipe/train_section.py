"""What a recipe says about the training: the section `train`."""

from typing import Literal

from pydantic import Field, model_validator

from mmts.errors import nearest
from mmts.evaluation.measures import Measure
from mmts.recipe.section import Section, Seed

_TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


class Train(Section):
    """How long to train, and how. Exactly one of `epochs` and `steps`."""

    epochs: int | None = Field(None, ge=0)
    """Length in passes through the training data; give this or `steps`. 0 evaluates the model untrained."""
    steps: int | None = Field(None, ge=0)
    """Length in optimizer steps."""
    batch_size: int = Field(256, ge=2)
    """Pairs per batch, over all processes; a smaller training split is one batch."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate after the warm-up; from there it follows a cosine down to `final_learning_rate`."""
    final_learning_rate: float = Field(0.0, ge=0)
    """Learning rate at the end."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of training in which the learning rate rises from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices; biases, norms and temperatures never decay."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the gradient; larger ones are scaled down to it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the towers; losses are always computed in float32 or better."""
    micro_batch: int | None = Field(None, ge=1)
    """Pairs per process that go through the towers at a time. The gradients and negatives are those of the whole batch,
    at the memory of a piece and the cost of one more forward pass. Refused if a trained tower has batch norm."""
    gradient_checkpointing: bool = False
    """Trained towers keep only the inputs of their blocks and compute the rest again in the backward pass: less
    memory, about a third more time. Works together with `micro_batch`."""
    evaluate_every: int = Field(1, ge=1)
    """Epochs between evaluations on val."""
    best: Measure = "R@1"
    """The measure on val, mean of both directions, that chooses the best checkpoint: `R@1`, `R@5`, `R@10`,
    `mean recall` (the mean of these three), and for graded relevance `mAP`, `nDCG`, `binary_mAP`. `head`, `mid` or
    `tail` before it counts only the queries of that group, as in `tail R@5`."""
    checkpoint_every: int | None = Field(None, ge=1)
    """Steps between checkpoints, in addition to the one at the end of every epoch; for long epochs."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What to do about a step with a non-finite loss or gradient: `stop` ends the run and reports the batch; `skip`
    leaves the step out and counts it."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of log.jsonl."""
    seed: Seed = 0
    """Seed of weights, order, captions, augmentation and dropout."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Any trackers that accelerate knows, such as `wandb` and `mlflow`; `[]` for none."""
    project: str = Field("mmts", min_length=1)
    """The project under which trackers file the run."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        for tracker in self.trackers:
            if tracker not in _TRACKERS:
                raise ValueError(f"trackers: unknown tracker {tracker!r}; {nearest(tracker, _TRACKERS)}")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} is larger than learning_rate {self.learning_rate}"
            )
        return self
