"""mmts: temperatures and margins that follow training progress and concept density, for training on long-tail data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmts.drop_in import MMTSLoss

__all__ = ["MMTSLoss", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Resolved when first asked for, so that `mmts --help` need not wait for torch.
    if name == "MMTSLoss":
        from mmts.drop_in import MMTSLoss

        return MMTSLoss
    raise AttributeError(f"module 'mmts' has no attribute {name!r}")
