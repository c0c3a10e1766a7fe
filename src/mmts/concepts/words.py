"""Words as concepts: which entries of a list a caption contains, and a list made of the captions' own words."""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from mmts.concepts.names import STOP_WORDS

_PUNCTUATION = re.compile(r"([,.;:?!`()\[\]{}\"“”])")  # the brackets and quotation marks are ours, the rest MetaCLIP's


def tokens(text: str) -> list[str]:
    """Split a text at spaces, in lower case, with spaces around punctuation, brackets and quotation marks.

    >>> tokens("A dog, a (Cat).")
    ['a', 'dog', ',', 'a', '(', 'cat', ')', '.']
    """
    return _PUNCTUATION.sub(r" \1 ", text.casefold()).split()


def matched_entries(captions: Iterable[str], entries: Iterable[Hashable]) -> list[list[str]]:
    """Return the entries that each caption contains as whole tokens, each once (docs/method.md, 2.9).

    captions: (N,); entries: any number, as " ".join(tokens(entry)) writes them; others match nothing. Returns N lists.
    Takes time for the tokens of the captions, times the lengths of the entries that begin with the same token.

    >>> matched_entries(["A hot dog, please.", "dogs"], ["dog", "hot dog", "cat"])
    [['hot dog', 'dog'], []]

    Source: MetaCLIP, arXiv 2309.16671, section 3.2 (substring matching).
    """
    known = {entry for entry in entries if isinstance(entry, str)}
    lengths: dict[str, set[int]] = {}  # of the entries that begin with a token
    for entry in known:
        parts = entry.split(" ")
        lengths.setdefault(parts[0], set()).add(len(parts))
    result = []
    for caption in captions:
        words = tokens(caption)
        inside = (" ".join(words[at : at + n]) for at, word in enumerate(words) for n in lengths.get(word, ()))
        result.append(list(dict.fromkeys(text for text in inside if text in known)))
    return result


def frequent_words(captions: Sequence[str], min_count: int) -> list[str]:
    """Return the tokens with a letter that at least `min_count` of the captions (N,) contain, without stop words.

    >>> frequent_words(["a red cup", "the red hat"], 2)
    ['red']
    """
    counts = Counter(word for caption in captions for word in dict.fromkeys(tokens(caption)))
    named = (word for word, n in counts.items() if n >= min_count and any(map(str.isalpha, word)))
    return [word for word in named if word not in STOP_WORDS]
