"""What a free worker does next, and whether a running trial goes on: the seam of all strategies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Resume:
    """Go on with a paused trial."""

    number: int


@dataclass(frozen=True)
class Start:
    """Begin a new trial."""

    params: Mapping[str, Any] | None
    """Its parameters; None: the study's own sampler draws them."""


class Strategy(Protocol):
    """Decides from the study alone, so that a resumed search decides as before."""

    def next(self) -> Resume | Start:
        """What a worker does that is free."""

    def goes_on(self, number: int, epoch: int) -> bool:
        """Whether a trial goes on that has reported this epoch: its value is in the study.

        Where it doesn't, freeze-thaw pauses it, and halving stops it.
        """
