"""Mixed precision: which one a device has."""

from contextlib import AbstractContextManager

import torch


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision to use: bfloat16 where the GPU has it, else float16; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on CUDA; full precision elsewhere."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
