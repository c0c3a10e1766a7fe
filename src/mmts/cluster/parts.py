"""Which parts of a long job a process computes: `--part I/N`, without any coordination but files."""

import re

from mmts.errors import InputError


def parse_part(text: str | None, ray: str | None = None) -> tuple[int, int]:
    """Return (I, N) of `--part I/N`, the I-th of N processes, I from 1 to N; (1, 1) for None.

    Raises InputError for anything else, and if `ray`, the address of a cluster that divides the work, is given, too.

    >>> parse_part("3/8"), parse_part(None)
    ((3, 8), (1, 1))
    """
    if text is None:
        return 1, 1
    if ray is not None:
        raise InputError(f"--part {text} and --ray {ray} both divide the work; give one of them")
    matched = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = (int(matched[1]), int(matched[2])) if matched else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--part {text}: it must be I/N, the I-th of N processes, with I from 1 to N, such as 1/8")
    return number, count
