"""Importing what is large: when it is first used, and without garbage collection."""

import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """Collect no garbage during a block of imports.

    What torch alone makes is a million objects that stay: to look for garbage among them again and
    again takes a quarter of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def import_when_used(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__`` (PEP 562), given the module of each public name.

    A module is imported when one of its names is first used, so that importing the package is fast.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with importing():
            return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: sorted({*vars(importlib.import_module(package)), *homes})
