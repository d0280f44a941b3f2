"""What a free worker does next, and whether a running trial goes on: the seam of all strategies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from search.runs.study import SearchStudy


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


class Fallback:
    """Decides as ``strategy`` does. Where that raises, it decides something simple instead.

    Then a running trial goes on, and a free worker begins a trial that the study's sampler draws,
    or, once ``most_trials`` are begun, resumes the best paused one. ``say`` is told of the first
    exception of each kind.
    """

    def __init__(
        self, strategy: Strategy, study: SearchStudy, most_trials: int, say: Callable[[str], None]
    ) -> None:
        self._strategy, self._study = strategy, study
        self._most_trials, self._say = most_trials, say
        self._said: set[str] = set()

    def next(self) -> Resume | Start:
        """What a worker does that is free."""
        try:
            return self._strategy.next()
        except Exception as error:
            self._say_once(error)
        paused = self._study.paused_trials()
        if len(self._study.get_trials(deepcopy=False)) < self._most_trials or not paused:
            return Start(None)
        return Resume(max(paused, key=lambda n: max(paused[n].intermediate_values.values())))

    def goes_on(self, number: int, epoch: int) -> bool:
        """Whether a trial goes on that has reported this epoch."""
        try:
            return self._strategy.goes_on(number, epoch)
        except Exception as error:
            self._say_once(error)
        return True

    def _say_once(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if type(error).__name__ not in self._said:
            self._said.add(type(error).__name__)
            self._say(
                f"The strategy could not decide ({reason}). Running trials go on, new ones are "
                "sampled, and the strategy is asked again next time."
            )
