"""What a device can compute."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Return whether `device` computes in bf16 natively; a CPU that only emulates it is slower with it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, check)() for check in checks if hasattr(torch.cpu, check))
    return False
