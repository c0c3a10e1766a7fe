"""The words of captions: those that name a concept, and those that are concepts themselves."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

# Words that do not describe a picture.
STOP_WORDS = frozenset(
    """
    a about above across after again against all along also am an and another any are around as at away back be
    because been before behind being below beneath beside between both but by can could did do does doing down
    during each either few for from front further had has have having he her here hers him his how i if in inside
    into is it its itself just like many me more most much my near next no nor not of off on one only onto or other
    our out outside over own per same several she should so some such than that the their them then there these they
    this those three through to together too toward towards two under until up upon us very via was we well were
    what when where which while who whom whose why will with within without would you your
    """.split()  # noqa: SIM905
)

_LONGEST = 30  # characters of a caption that names a concept
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_PUNCTUATION = re.compile(r"([,.;:?!`()\[\]{}\"“”])")  # the brackets and quotation marks are ours, the rest MetaCLIP's


class _Breaks(dict[int, str]):
    """For str.translate: letters, marks and digits stay, symbols (emoji) stand alone, the rest separates words."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        self[code] = character if kind in "LMN" or character in "'-" else f" {character} " if kind == "S" else " "
        return self[code]


_BREAKS = _Breaks({0xFE0F: " ", ord("\u2019"): "'"})


def words(caption: str) -> list[str]:
    """Split a caption of any script into lower-case words; Chinese and Japanese runs become pairs of characters.

    >>> words("A men's T-Shirt, red/blue: don't!")
    ['a', 'men', 't-shirt', 'red', 'blue', "don't"]
    """
    result = []
    for word in unicodedata.normalize("NFKC", caption).casefold().translate(_BREAKS).split():
        if bare := word.strip("'-").removesuffix("'s"):
            result += _cjk_pairs(bare) if _CJK.search(bare) else [bare]
    return result


def distinctive_words(captions: Sequence[str], labels: Sequence[int], num_concepts: int, limit: int = 3) -> list[str]:
    """Name each of K concepts by its most distinctive words, at most `limit` of them.

        score(w, c) = p(w | c) ln(p(w | c) / p(w))

    p(w | c) is the share of the concept's captions that contain the word, and p(w) that of all captions: the score is
    high for words that are common here and rare elsewhere. Ties go alphabetically. Left out are plurals of chosen words
    and words in less than a fifth of the captions of the first one. A concept with only stop words and numbers is named
    by these, a concept without words by its first caption. captions and labels, their concepts, are (N,).

    >>> distinctive_words(["red shoe", "blue shoe", "red hat", "the hat"], [0, 0, 1, 1], 2)
    ['shoe blue', 'hat']
    """
    counts: list[Counter[str]] = [Counter() for _ in range(num_concepts)]  # captions of a concept that contain a word
    total: Counter[str] = Counter()
    first: dict[int, str] = {}
    for caption, label in zip(captions, labels, strict=True):
        distinct = set(words(caption))
        counts[label].update(distinct)
        total.update(distinct)
        first.setdefault(label, caption)
    sizes = Counter(labels)
    names = []
    for concept, own in enumerate(counts):
        named = {word: n for word, n in own.items() if word not in STOP_WORDS and not word.isdigit()} or dict(own)
        share = {word: n / sizes[concept] for word, n in named.items()}
        score = {word: p * math.log(p / (total[word] / len(captions))) for word, p in share.items()}
        chosen: list[str] = []
        for word in sorted(named, key=lambda word: (-round(score[word], 9), word)):
            is_plural = any(
                word in (other + "s", other + "es") or other in (word + "s", word + "es") for other in chosen
            )
            is_common = not chosen or (score[word] > 0 and 5 * named[word] >= named[chosen[0]])
            if len(chosen) < limit and is_common and not is_plural:
                chosen.append(word)
        caption = " ".join(first.get(concept, "").split())
        names.append(" ".join(chosen) or (caption if len(caption) <= _LONGEST else caption[: _LONGEST - 1] + "…"))
    return names


def _cjk_pairs(word: str) -> list[str]:
    pairs = []
    for run in re.findall(f"{_CJK.pattern}|[^{_CJK.pattern[1:-2]}]+", word):
        pairs += [run] if len(run) == 1 or not _CJK.match(run) else [run[i : i + 2] for i in range(len(run) - 1)]
    return pairs


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
        parts = tokens(caption)
        inside = (" ".join(parts[at : at + n]) for at, word in enumerate(parts) for n in lengths.get(word, ()))
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
