"""Finds what a name means: a registered name, or a user's own ``package.module:attribute``."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

from segcore.errors import UserError

T = TypeVar("T")


def is_import_path(name: str) -> bool:
    """Whether a name means ``package.module:attribute`` rather than a registered name."""
    return ":" in name


def resolve(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Look up a name in ``registry``, or import it.

    ``kind`` is the word for error messages ("loss", "architecture").
    Raises ``UserError`` if the name is unknown, with the nearest names, or can't be imported.
    """
    if is_import_path(name):
        found: T = import_attribute(kind, name)
        return found
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise UserError(
        f"unknown {kind} {name!r}.{hint} Allowed: {', '.join(sorted(registry))}, "
        f"or an import path such as mylab.{kind}s:MyOwn"
    )


def import_attribute(kind: str, path: str) -> Any:
    """Import ``package.module:attribute``. Raises ``UserError`` saying which part of it fails."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{kind} {path!r}: module {module_name!r} can't be imported ({error}); "
            "run from the folder that holds it, or install it"
        ) from error
    if not hasattr(module, attribute):
        names = ", ".join(name for name in vars(module) if not name.startswith("_"))
        raise UserError(f"{kind} {path!r}: {module_name} has no {attribute!r}; it has: {names}")
    return getattr(module, attribute)
