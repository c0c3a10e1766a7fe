"""From captions to the rows that are clustered into concepts: by a function, TF-IDF, or a named pretrained model."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mmts.concepts.kmeans import SAMPLE, Rows
from mmts.concepts.names import words
from mmts.errors import InputError, check_rows
from mmts.files import content_hash

EncoderFunction = Callable[[list[str]], Any]
EncoderName = str | Path | EncoderFunction
"""As in `ConceptDistribution.from_captions`."""


class Encoder(Protocol):
    """Captions (N,) to rows (N, W) of any norm; `fingerprint` changes with whatever changes the rows."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    def __call__(self, captions: list[str], /) -> Rows: ...  # noqa: D102


def open_encoder(encoder: EncoderName, captions: Sequence[str] = (), *, seed: int = 0) -> Encoder:
    """Return the encoder; "tfidf" is fitted to `captions`. Raises InputError for an unknown model."""
    if callable(encoder):
        return FunctionEncoder(encoder)
    if encoder == "tfidf":
        return TfidfEncoder.fit(captions, seed=seed)
    from mmts.models.text_encoder import text_encoder  # the only import from above: it resolves a name

    return text_encoder(str(encoder))


def checked_captions(captions: Iterable[Any]) -> list[str]:
    """Return the captions as a list; raise InputError naming the row of one that is empty or not a string."""
    if isinstance(captions, str):
        raise InputError("captions are one string; a list of strings is right")
    checked = list(captions)
    for row, caption in enumerate(checked):
        if not isinstance(caption, str):
            raise InputError(f"the caption in row {row} is {type(caption).__name__}, not a string")
        if not caption.strip():
            raise InputError(f"the caption in row {row} is empty")
    return checked


def encode_distinct(captions: list[str], encoder: Encoder) -> tuple[Rows, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows (U, W) of the U distinct captions, how often each occurs (U,), and each caption's row number (N,)."""
    occurrences = Counter(captions)
    distinct = list(occurrences)
    if len(distinct) > SAMPLE:
        # Models keep their rows in this order, so that millions of them are mapped from disk, not copied to memory.
        distinct.sort(key=lambda caption: (len(caption), caption))
    position = {caption: i for i, caption in enumerate(distinct)}
    row_of = np.array([position[caption] for caption in captions], dtype=np.int64)
    if isinstance(encoder, FunctionEncoder):
        # A function gets all captions in their order, so that it may return features computed elsewhere.
        first = {caption: i for i, caption in reversed(list(enumerate(captions)))}
        rows = encoder(captions)[[first[caption] for caption in distinct]]
    else:
        rows = encoder(distinct)
    return rows, np.array([occurrences[caption] for caption in distinct], dtype=np.int64), row_of


class FunctionEncoder:
    """Any function captions -> (N, W) rows; nothing but its name is known of it."""

    def __init__(self, function: EncoderFunction) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        self.fingerprint = f"function {self.name}"

    def __call__(self, captions: list[str]) -> Rows:
        """Call the function once with all captions in order; raise InputError unless it returns N finite rows."""
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
        check_rows(finite, f"the encoder {self.name} returned NaN or infinite numbers in row {{row}}")
        return rows


class TfidfEncoder:
    """TF-IDF over words, then truncated SVD: needs no weights, and is small enough to be saved whole.

        row(caption) = components unit(x),   x_w = (1 + ln n_w) idf_w,   idf_w = 1 + ln((1 + N) / (1 + N_w))

    n_w is how often word w occurs in the caption, and N_w how many of the N fitted captions hold it. A caption without
    any known word is a zero row.
    """

    name = "tfidf"

    def __init__(self, vocabulary: list[str], idf: Rows, components: Rows) -> None:
        self.vocabulary = vocabulary  # (V,)
        self.idf = idf  # (V,)
        self.components = components  # (W, V)
        self.fingerprint = "tfidf " + content_hash("\n".join(vocabulary), idf.tobytes(), components.tobytes())
        self._vectorizer = _vectorizer(vocabulary=vocabulary)
        self._vectorizer.idf_ = idf

    @classmethod
    def fit(
        cls, captions: Sequence[str], *, seed: int = 0, width: int = 128, max_words: int = 20_000
    ) -> "TfidfEncoder":
        """Learn words, weights and directions from N captions; the most frequent `max_words` words are kept."""
        from sklearn.utils.extmath import randomized_svd

        vectorizer = _vectorizer(max_features=max_words)
        try:
            matrix = vectorizer.fit_transform(captions)
        except ValueError:  # an empty vocabulary
            raise InputError("the encoder tfidf found no word in any caption; choose another encoder") from None
        _, _, components = randomized_svd(matrix, n_components=min(width, *matrix.shape), random_state=seed)
        components = np.ascontiguousarray(components, dtype=np.float32)
        return cls(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.astype(np.float32), components)

    def __call__(self, captions: Sequence[str]) -> Rows:
        """Return the rows (N, W) of captions (N,)."""
        return np.asarray(self._vectorizer.transform(captions) @ self.components.T, dtype=np.float32)


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=words, sublinear_tf=True, dtype=np.float32, **options)
