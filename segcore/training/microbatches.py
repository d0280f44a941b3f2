"""If memory runs out, fewer images go through the network at once, and their gradients add up."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from segcore.errors import TrainingFailedError

T = TypeVar("T")

# Parts of the RuntimeErrors of torch's allocators (host, Metal), and of CUDA's libraries. The last
# one is said where none of cuDNN's ways of a convolution finds memory (pytorch/pytorch#108645).
_PHRASES = (
    "out of memory", "can't allocate memory", "_ALLOC_FAILED", "unable to find an engine",
)  # fmt: skip
_LONE_IMAGE = "Expected more than 1 value per channel"
"""Part of the error of batch normalisation that gets one 1×1 map."""


class OutOfMemoryError(TrainingFailedError):
    """Memory ran out, and fewer images at once don't help."""


class MicroBatches:
    """How many images of a batch go through the network at once (``size``).

    The size is halved when memory runs out, and never raised again, because the same batches would
    not fit later either. The batch, the scale of its loss and the optimizer's steps stay the same.
    Only batch normalisation changes: its statistics are those of a micro-batch, and its running
    averages see a part of a repeated batch twice.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.size = batch_size

    def parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Cut tensors N… into micro-batches of sizes as equal as possible."""
        count = -(-len(tensors[0]) // self.size)
        return zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True)

    def attempt(self, work: Callable[[], T]) -> T:
        """Repeat ``work`` with smaller micro-batches until it fits; return what it returns.

        Raises ``OutOfMemoryError`` if even micro-batches of one image don't fit.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if _LONE_IMAGE in str(error) and self.size < self._batch_size:
                    raise OutOfMemoryError(
                        f"out of memory at more than {self.size} images at a time, and its batch "
                        f"normalisation can't do with fewer (batch_size {self._batch_size})"
                    ) from None
                if not ran_out_of_memory(error):
                    raise
                reason = _line(error)
            # Outside ``except``, because the error keeps the frames that keep the tensors.
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        if self.size == 1:
            raise OutOfMemoryError(
                f"out of memory even at one image at a time (batch_size {self._batch_size}): "
                f"{reason}"
            )
        self.size = -(-self.size // 2)
        gc.collect()
        for backend in (torch.cuda, torch.mps):
            if backend.is_available():
                backend.empty_cache()


@contextmanager
def naming_memory() -> Iterator[None]:
    """Raise ``OutOfMemoryError`` if memory runs out for another reason than a batch's size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory, whatever the batch size: {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the device or of the host is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _PHRASES)
