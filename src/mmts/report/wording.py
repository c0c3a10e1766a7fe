"""Numbers and foreign text as the page shows them."""

import re
import unicodedata

from mmts.evaluation.compare import Gap

_MINUS = "\N{MINUS SIGN}"
# The explicit bidirectional controls: they would turn around the text that follows.
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: object, longest: int = 160) -> str:
    r"""Return text as one line that any page can hold: no control characters or lone surrogates, cut at `longest`.

    >>> clean("a\x00 red\n shoe \ud800")
    'a red shoe ?'
    >>> clean("abcdef", longest=4)
    'abc…'
    """
    line = str(text)[: 8 * longest].encode("utf-8", "replace").decode("utf-8")
    line = "".join(" " if each.isspace() else each for each in line if each.isspace() or not _is_control(each))
    line = re.sub(" +", " ", line).strip()
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def isolated(text: str) -> str:
    r"""Wrap right-to-left text in Unicode isolates, so that it leaves what stands beside it in its order.

    >>> isolated("shoe"), len(isolated("\u05e0\u05e2\u05dc"))
    ('shoe', 5)
    """
    if not any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        return text
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"


def signed(value: float, digits: int = 1) -> str:
    """Write a difference with its sign, a true minus; what rounds to nothing has none.

    >>> signed(-0.31), signed(1.26), signed(-0.04)
    ('−0.3', '+1.3', '0.0')
    """
    rounded = f"{abs(value):.{digits}f}"
    if float(rounded) == 0:
        return rounded
    return ("+" if value > 0 else _MINUS) + rounded


def interval_in_words(gap: Gap) -> str:
    """Write the interval of a difference.

    >>> interval_in_words(Gap(0.5, -0.31, 1.26))
    '−0.3 to +1.3'
    """
    return f"{signed(gap.low)} to {signed(gap.high)}"


def in_title(direction: str) -> str:
    """Write a direction as a title.

    >>> in_title("text_to_image")
    'Text to image'
    """
    return direction.replace("_", " ").capitalize()


def listed(words: list[str]) -> str:
    """Write words as an English list.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc" or character in _TURNING
