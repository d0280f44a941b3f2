"""Versions of packages and the commit, which are stored with every checkpoint and trial."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that determine results, and this code's commit."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    found["commit"] = _commit()
    return found


def _commit() -> str:
    """The checkout's commit, with a mark if files were changed; "unknown" outside a checkout."""
    try:
        # An installed package may lie within another repository, which doesn't track this file.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12").strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10,
        check=True,
    ).stdout  # fmt: skip
