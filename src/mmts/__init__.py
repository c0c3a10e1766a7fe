"""mmts: temperatures and margins that follow training progress and concept density, for training on long-tail data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmts.drop_in import MMTSLoss
    from mmts.training.run import train

__all__ = ["MMTSLoss", "__version__", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `mmts --help` need not wait for torch.
    if name == "MMTSLoss":
        from mmts.drop_in import MMTSLoss

        return MMTSLoss
    if name == "train":
        from mmts.training.run import train

        return train
    raise AttributeError(f"module 'mmts' has no attribute {name!r}")
