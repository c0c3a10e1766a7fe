"""What a recipe says about its data, their concepts, the training and what is scored after it.

These are the sections `data`, `concepts`, `train` and `evaluation`.
"""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, model_validator

from mmts.concepts.members import Of
from mmts.errors import nearest, plain
from mmts.evaluation.measures import Measure
from mmts.files import as_address
from mmts.recipe.section import Section, Seed


def _absolute(path: Path) -> Path:
    return path if as_address(path) else path.expanduser().absolute()


File = Annotated[Path, AfterValidator(_absolute)]
"""A file of a recipe, absolute once the recipe is read, so that it names the same file from any folder."""
_Data = Annotated[Path, PlainSerializer(lambda path: as_address(path) or str(path), str, when_used="json")]
DatasetName = Literal["flickr30k", "coco", "cc3m", "ek100", "youcook2"]
DATASETS = get_args(DatasetName)
_TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


class Augment(Section):
    """Random changes to training images and clips; only for a tower that trains."""

    crop_scale: tuple[float, float] = (0.6, 1.0)
    """Smallest and largest share of the picture's area that a random crop keeps."""
    flip: bool = True
    """Mirror left and right half of the time; switch it off if text or direction matters."""
    color: float = Field(0.2, ge=0, le=1)
    """How far brightness, contrast and saturation may move."""
    crop_ratio: Literal["picture", "pixels"] = "picture"
    """What has a ratio between 3/4 and 4/3: the shares of the `picture` that a crop's sides have, or their `pixels`, as
    in torchvision's RandomResizedCrop."""
    randaugment: tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0, le=10)]] | None = None
    """RandAugment: how many of its ten operations, and their magnitude, such as `[2, 7]`."""

    @model_validator(mode="after")
    def _crops_something(self) -> "Augment":
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale needs 0 < low <= high <= 1, not [{plain(low)}, {plain(high)}]")
        return self


class Cabs(Section):
    """Batches with many concepts, chosen from super-batches: CABS-DM (docs/method.md, 9.3)."""

    filter: float = Field(0.8, ge=0, lt=1)
    """Share of each super-batch that is left out: a batch of B pairs is chosen among B / (1 - `filter`)."""
    most: int | None = Field(None, ge=1)
    """Pairs of a concept after which more of it are taken only if no others are left; the released code has 10."""


class Sampling(Section):
    """How often the pairs of a concept are drawn for training; an epoch keeps its length (docs/method.md, 9)."""

    by: str = "concept"
    """What counts as a pair's concept: `concept`, those of `concepts`, or a label of the media (of a list, the rarest
    value)."""
    power: float = 1.0
    """A concept of n pairs is drawn in proportion to n^power: 1 as the data are, .5 the square root, 0 all concepts
    alike."""
    cap: int | None = Field(None, ge=1)
    """A concept with more pairs than this is drawn as if it had this many, as in MetaCLIP."""
    repeat: float | None = Field(None, gt=0, le=1)
    """In place of `power` and `cap`, the repeat factor of LVIS: a pair of a concept with a share f below `repeat` is
    drawn sqrt(`repeat` / f) times as often as those above."""
    cabs: Cabs | None = None
    """Choose the batches by concept from what is drawn; `{}` for the defaults."""
    start: float = Field(0.0, ge=0, lt=1)
    """Progress from which it applies: to every epoch that begins there or later. Before, the data come as they are."""
    end: float = Field(1.0, gt=0, le=1)
    """Progress up to which it applies: to no epoch that begins there or later."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Sampling":
        if self.repeat is not None and (self.power != 1 or self.cap is not None):
            raise ValueError("repeat takes the place of power and cap; leave them out")
        if not self.start < self.end:
            raise ValueError(f"start {plain(self.start)} must be below end {plain(self.end)}")
        return self


class SplitNames(Section):
    """Which of the data's splits are train, val and test, if they have other names, such as train2014."""

    # A split may be called 0 or 2014, which YAML reads as a number.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    train: str | None = None
    """The data's own name of the split to train on."""
    val: str | None = None
    """The data's own name of the split on which the best checkpoint is chosen."""
    test: str | None = None
    """The data's own name of the split to evaluate on."""


class Columns(Section):
    """Which columns of a table hold paths and captions, if their names are not the usual ones."""

    media: str | None = None
    """The column of paths."""
    caption: str | None = None
    """The column of captions."""


class Data(Section):
    """What is read, and which results are relevant to a query."""

    path: _Data | None = None
    """The same as `--data`."""
    dataset: DatasetName | None = None
    """The public data set that the recipe was made for."""
    splits: SplitNames = SplitNames()
    """Which of the data's splits are train, val and test, if they have other names: `{train: train2014}`."""
    columns: Columns = Columns()
    """Which columns of a table hold paths and captions, if their names are not the usual ones."""
    val: Annotated[_Data, AfterValidator(_absolute)] | None = None
    """Other data whose val split chooses the best checkpoint, in place of the data's own val."""
    relevance: Literal["text", "own", "graded"] = "text"
    """Which results are relevant in evaluation. `text`: every medium with the same caption string; `own`: only the
    caption's own medium, as in the published Flickr30K, COCO and YouCook2 protocols; `graded`: by the classes of verbs
    and nouns, as in EPIC-KITCHENS-100."""
    captions: Literal["own", "same-concept", "relevant"] = "own"
    """The caption drawn for a medium in training. `own`: one of its own; `relevant`: any caption with graded relevance
    over `min_relevance`; `same-concept`: such a caption whose medium has the same concept."""
    sampling: Sampling | None = None
    """Which pairs an epoch shows, by the size of their concept; `null` shows each medium once."""
    min_relevance: float = Field(0.1, ge=0, lt=1)
    """Graded relevance that a drawn caption must exceed."""
    max_unreadable: float = Field(0.01, ge=0, le=1)
    """Share of media that may be unreadable before the run is refused; each is named in `unreadable.txt`."""
    keep: File | None = None
    """The training media to use, others are left out: a file of ids, one per line, or DataComp's .npy of uids, such as
    `mmts curate` writes."""
    max_media: int | None = Field(None, ge=2)
    """Use at most this many media of each split, evenly spread."""
    shuffle_buffer: int = Field(20_000, ge=1)
    """Media in shards are shuffled within a buffer of this many samples, after the shards are shuffled."""
    augment: Augment | None = Augment()
    """Random changes to training images and clips, only for a tower that trains; `null` switches them off."""
    workers: int = Field(0, ge=0)
    """Processes that decode images and clips, only for a tower that trains."""


class Concepts(Section):
    """Where a sample's concepts come from: clusters of the training captions, words in them, a label of its medium, or
    a file."""

    source: Literal["captions", "words", "label", "file", "parquet"] = "captions"
    """`captions`: cluster the training captions; `words`: the entries of `file` that a caption contains, or its own
    frequent words; `label`: use a label of the media; `file`: read concepts from `file`; `parquet`: join the labels in
    the parquet tables `file` by the ids of the media."""
    label: str | None = None
    """The label to use, for `source: label`."""
    file: File | None = None
    """A file that `ConceptDistribution.save` wrote for the training captions, in their order; for `source: words` a
    text file with one entry, a word or several, per line; for `source: parquet` a table or a folder of tables."""
    column: str = "concept"
    """For `source: parquet`, the column of labels, one value per medium."""
    key: str = "id"
    """For `source: parquet`, the column of ids."""
    min_count: int = Field(5, ge=1)
    """For `source: words` without `file`: a word is a concept if at least this many training captions contain it."""
    of: Of = "rarest"
    """Whose size counts for a sample with several concepts, by words or by a label that is a list: that of its
    `rarest`, its `commonest`, or their `mean`."""
    num_concepts: int | Literal["auto"] = "auto"
    """Number of clusters; `auto` is min(200, distinct captions // 10), at least 2."""
    encoder: str = "minilm"
    """`minilm` (packaged), `tfidf` (no weights), or a sentence-transformers, CLIP or SigLIP name or folder."""
    seed: Seed = 0
    """Seed of the clustering."""

    @model_validator(mode="after")
    def _source_is_named(self) -> "Concepts":
        if (self.source == "label") != (self.label is not None):
            raise ValueError("`label` names the label to use when `source` is label, and only then")
        needs_file, takes_file = self.source in ("file", "parquet"), self.source in ("file", "parquet", "words")
        if (needs_file and self.file is None) or (self.file and not takes_file):
            raise ValueError("`file` names the file to read when `source` is file, parquet or words, and only then")
        if (self.column, self.key) != ("concept", "id") and self.source != "parquet":
            raise ValueError("`column` and `key` are those of the tables when `source` is parquet, and only then")
        if isinstance(self.num_concepts, int) and self.num_concepts < 2:
            raise ValueError(f"num_concepts must be at least 2 or auto, not {self.num_concepts}")
        return self


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
    """Share of training in which the learning rate rises in a straight line to `learning_rate`."""
    warmup_learning_rate: float = Field(0.0, ge=0)
    """Learning rate from which it rises."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices; biases, norms and temperatures never decay."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, such as .999 (reached after a warm-up). Validation, the
    best checkpoint and the final evaluation then use the averaged weights."""
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
    shard: bool = False
    """Each process keeps a share of the weights, gradients and moments of the model (FSDP2) in place of the whole; the
    results are the same. One process keeps the whole."""
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

    def total_steps(self, batches_per_epoch: int) -> int:
        """Return the length in optimizer steps."""
        return self.steps or (self.epochs or 0) * batches_per_epoch

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        for tracker in self.trackers:
            if tracker not in _TRACKERS:
                raise ValueError(f"trackers: unknown tracker {tracker!r}; {nearest(tracker, _TRACKERS)}")
        for name in ("warmup_learning_rate", "final_learning_rate"):
            if (rate := getattr(self, name)) > self.learning_rate:
                raise ValueError(f"{name} {rate} is larger than learning_rate {self.learning_rate}")
        if self.warmup_learning_rate and not self.warmup:
            raise ValueError("warmup_learning_rate is where a warm-up starts, and warmup is 0")
        return self


class Evaluation(Section):
    """What is scored at the end of training, and by later evaluations of the run's own data, besides retrieval."""

    classify: str | None = None
    """A label of the media: each medium is classified by the names of the label's values (docs/classification.md)."""
    prompts: File | None = None
    """A file with one template per line for `classify`, such as `a photo of a {}.` (default: mmts's own six)."""

    @model_validator(mode="after")
    def _prompts_have_a_use(self) -> "Evaluation":
        if self.prompts is not None and self.classify is None:
            raise ValueError("prompts are for classify, which names a label and is missing")
        return self
