"""mmts: temperatures and margins that follow training progress and concept density, for training on long-tail data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmts.drop_in import MMTSLoss
    from mmts.training.run import train

__all__ = ["MMTSLoss", "__version__", "train"]
__version__ = "0.1.0"
_MODULES = {"MMTSLoss": "mmts.drop_in", "train": "mmts.training.run"}


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `mmts --help` need not wait for torch.
    if name not in _MODULES:
        raise AttributeError(f"module 'mmts' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
