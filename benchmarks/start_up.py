"""How long the command line takes to print its help, compared with a command line that imports torch first."""

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.measure import Comparison, compare


def run() -> Iterator[Comparison]:
    """Compare whole processes."""

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    yield compare(
        "start of the command line",
        "mmts --help, against import torch",
        lambda: python("-m", "mmts.cli", "--help"),
        lambda: python("-c", "import torch"),
        5,
    )
