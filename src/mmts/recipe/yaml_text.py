"""Reading YAML that somebody wrote: plain values only, and one kind of error whatever is wrong."""

from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Read YAML without its tags for objects; a key that stands twice is an error. Raises yaml.YAMLError.

    The reader itself lets much else through: impossible dates, numbers of thousands of digits, lists as keys.

    >>> load_yaml("{a: 1, b: [2, x]}")
    {'a': 1, 'b': [2, 'x']}
    >>> load_yaml("day: 2024-13-01")
    Traceback (most recent call last):
    yaml.error.YAMLError: a value in it cannot be: month must be in 1..12
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:
        raise yaml.YAMLError(f"a value in it cannot be: {error}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice in a mapping is an error: which of the two was meant?"""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
