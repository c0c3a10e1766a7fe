"""Strategies for files as an attacker, a bad disk or a bad script would write them."""

import json
from typing import Any

from hypothesis import strategies as st

PATHS = [
    "a.png", "images/a.png", "images/../a.png", "../secret.png", "images/../../secret.png", "/etc/passwd", "~/x.png",
    "C:\\x.png", "..\\secret.png", "\\\\host\\x.png", "", " ", ".", "..", "/", "a\0b.png", "a\nb.png", "\ud800.png",
    "x" * 5000, "a.png/b", "images", "%2e%2e/secret.png", "link/secret.png", "a.npy", "a.mp4", "CON", "-rf",
]  # fmt: skip
WORDS = [
    "", "train", "val", "test", "null", "NaN", "1e999", "-1", "0", "a cat", "\0", "\ufeff", "\u202e", "e\u0301" * 50,
    "=cmd|' /C calc'!A0", "{{7*7}}", "${x}", "__class__", "9" * 5000, "../..", "\ud83d", "\r\n", "'\"",
]  # fmt: skip

paths = st.sampled_from(PATHS) | st.text(max_size=20)
words = st.sampled_from(WORDS) | st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.just(10**400)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return a file's bytes after a few cuts, changes, insertions and repetitions."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(("bit", "bytes", "insert", "delete", "cut", "repeat", "zeros")))
        if what == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "bytes":
            some = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(some)] = some
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif what == "delete":
            del data[at : at + draw(st.integers(1, 64))]
        elif what == "cut":
            del data[at:]
        elif what == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 600))]
        else:
            length = draw(st.integers(1, 600))
            data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, tree: Any, keys: list[str], other: st.SearchStrategy[Any] = values) -> Any:
    """Return nested mappings and lists with a few values changed, keys taken out, and keys put in."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        place, name = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("value", "out", "in")))
        if what == "value":
            place[name] = draw(other)
        elif what == "out":
            del place[name]
        elif isinstance(place, dict):
            place[draw(st.sampled_from(keys) | words)] = draw(other)
        else:
            place.insert(0, draw(other))
    return tree


def _places(tree: Any) -> Any:
    """Yield (container, key) of everything in a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def as_json(value: Any) -> bytes:
    """Write JSON as it comes: NaN, lone surrogates and all."""
    return json.dumps(value).encode()
