"""The device that a network runs on, and its precision."""

from contextlib import AbstractContextManager

import torch

from segcore.errors import UserError


def choose_device(name: str | None = None) -> torch.device:
    """The device with this name, such as ``cuda:1``; without a name, the fastest one.

    CUDA is preferred, then Metal (``mps``, on Apple silicon), then the CPU. Raises ``UserError`` if
    the device can't be used.
    """
    name = name or _fastest()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises both if it lacks a backend.
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {name!r} can't be used ({reason}); allowed: cpu, cuda, cuda:1 …, mps"
        ) from error
    return device


def _fastest() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that a device computes with; None for full precision.

    CUDA has bfloat16 on newer GPUs and float16 on all. A CPU is not faster in half precision, and
    Metal was not tried.
    """
    if device.type != "cuda":
        return None
    # Older GPUs emulate bfloat16, which takes longer than full precision, and cuDNN has no
    # convolutions in it for them (huggingface/diffusers#14129).
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bfloat16 else torch.float16


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision on CUDA, and full precision elsewhere."""
    dtype = amp_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device, for which this process doesn't wait where the device is CUDA."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only from pinned memory can a copy run in the background.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
