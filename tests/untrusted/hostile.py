"""Hypothesis strategies for files that an attacker, a bad disk or a faulty script could have written."""

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
    """Return the bytes of a file after a few cuts, changes, insertions and repetitions."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        damage = draw(st.sampled_from(("bit", "bytes", "insert", "delete", "cut", "repeat", "zeros")))
        if damage == "bit" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif damage == "bytes":
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + len(new)] = new
        elif damage == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif damage == "delete":
            del data[at : at + draw(st.integers(1, 64))]
        elif damage == "cut":
            del data[at:]
        elif damage == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 600))]
        else:
            length = draw(st.integers(1, 600))
            data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, tree: Any, keys: list[str], other: st.SearchStrategy[Any] = values) -> Any:
    """Return nested mappings and lists with a few values changed, entries removed, and entries added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "remove", "add")))
        if change == "replace":
            container[key] = draw(other)
        elif change == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[draw(st.sampled_from(keys) | words)] = draw(other)
        else:
            container.insert(0, draw(other))
    return tree


def _places(tree: Any) -> Any:
    """Yield the container and the key of every value in a tree."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def as_json(value: Any) -> bytes:
    """Write JSON without any check: NaN and lone surrogates pass."""
    return json.dumps(value).encode()
