"""Out of memory → fewer images at a time, whose gradients add up to the whole batch's."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from segcore.errors import TrainingFailedError

T = TypeVar("T")

# What torch's host allocator, CUDA's libraries and drivers say in a plain RuntimeError.
_PHRASES = ("out of memory", "can't allocate memory", "_ALLOC_FAILED")
_LONE_IMAGE = "Expected more than 1 value per channel"  # batch normalisation, of a 1×1 map


class OutOfMemoryError(TrainingFailedError):
    """Memory ran out, and fewer images at a time don't help."""


class MicroBatches:
    """How many images of a batch go through the network at once.

    Halved when memory runs out, and never raised again: memory that was too small once will be
    again. The batch itself, what it is scaled by and when the optimizer steps stay as they were.
    What changes is batch normalisation: its statistics are those of a micro-batch, and its running
    averages have seen a part of the repeated batch twice.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.size = batch_size

    def parts(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors N… cut alike into micro-batches as equal as can be."""
        count = -(-len(tensors[0]) // self.size)
        return zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True)

    def attempt(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; it is repeated from its beginning until it fits.

        Raises ``OutOfMemoryError`` where even micro-batches of one image don't.
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
            # Not within ``except``: the error holds the frames that hold the tensors.
            self._halve(reason)

    def _halve(self, reason: str) -> None:
        if self.size == 1:
            raise OutOfMemoryError(
                f"out of memory even at one image at a time (batch_size {self._batch_size}): "
                f"{reason}"
            )
        self.size = -(-self.size // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def naming_memory() -> Iterator[None]:
    """Raise ``OutOfMemoryError`` where memory runs out otherwise than by a batch's size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory, whatever the batch size: {_line(error)}") from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory, or the host's, is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _PHRASES)
