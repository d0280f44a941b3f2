"""What ran: the versions and the commit that go with every checkpoint and trial."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "segmentation-models-pytorch", "timm", "albumentations")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and this code's commit."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    found["commit"] = _commit()
    return found


def _commit() -> str:
    """The checkout's commit, marked where files differ from it; "unknown" outside a checkout."""
    try:
        # An installed package may lie within somebody else's repository, which doesn't track it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12").strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10,
        check=True,
    ).stdout  # fmt: skip
