"""Ctrl-C and SIGTERM, which Ray handles in its own way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handlers_restored() -> Iterator[None]:
    """After the block Ctrl-C and SIGTERM mean what they meant before it.

    Ray takes SIGTERM for a cluster that it starts, and Ray Tune keeps SIGINT when its trials have
    ended: the next Ctrl-C would do nothing.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if _may_set_handlers():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def take_sigterm() -> None:
    """Let SIGTERM, by which batch systems and ``docker stop`` end a process, mean Ctrl-C.

    Ray's own handler would end Ray's processes at once, and this one with them.
    """
    if _may_set_handlers():
        signal.signal(signal.SIGTERM, _interrupt)


def _may_set_handlers() -> bool:
    return threading.current_thread() is threading.main_thread()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does now, also where a shell in the background has it ignored."""
    ctrl_c = signal.getsignal(signal.SIGINT)
    if callable(ctrl_c):  # Ray Tune's own, while trials run
        ctrl_c(signal.SIGINT, frame)
    else:
        raise KeyboardInterrupt
