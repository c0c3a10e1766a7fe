"""Numbers and foreign text as the page shows them."""

import re
import unicodedata

from mmts.evaluation.results import Gap

# Control characters other than white space, and bidirectional controls, which turn around the text after them.
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: object, longest: int = 160) -> str:
    r"""Return text as one line that any page can hold: no control characters or lone surrogates, cut at `longest`.

    >>> clean("a\x00 red\n shoe \ud800")
    'a red shoe ?'
    >>> clean("abcdef", longest=4)
    'abc…'
    """
    line = str(text)[: 8 * longest].encode("utf-8", "replace").decode("utf-8")
    line = " ".join(_CONTROLS.sub("", line).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def isolated(text: str) -> str:
    """Wrap right-to-left text in Unicode isolates, so that the text beside it keeps its order."""
    if any(unicodedata.bidirectional(char) in ("R", "AL") for char in text):
        return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
    return text


def signed(value: float) -> str:
    """Write a difference with its sign (a true minus); a value that rounds to zero has no sign.

    >>> signed(-0.31), signed(1.26), signed(-0.04)
    ('−0.3', '+1.3', '0.0')
    """
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval_in_words(gap: Gap) -> str:
    """Write the interval of a difference, such as "−0.3 to +1.3"."""
    return f"{signed(gap.low)} to {signed(gap.high)}"


def in_title(direction: str) -> str:
    """Write a direction as a title, such as "Text to image"."""
    return direction.replace("_", " ").capitalize()


def listed(words: list[str]) -> str:
    """Write words as an English list: "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
