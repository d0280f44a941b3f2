"""Why a model was taken: one sentence that a person understands."""

from collections.abc import Sequence

from search.ensembles.drafts import Draft
from segcore.choosing.choice import Choice
from segcore.config import MetricName, Prefer


def reason(drafts: Sequence[Draft], choice: Choice, metric: MetricName, prefer: Prefer) -> str:
    """A sentence with the scores that decided; the first one of ``drafts`` is the plainest."""
    taken, best = drafts[choice.taken], drafts[choice.best]
    if len(drafts) == 1:
        return f"{_capital(taken.model.name)} was taken: no other trial could add to it."
    if not taken.left_out.photos:
        return (
            f"{_capital(taken.model.name)} was taken as the plainest model: the validation split "
            "is a single photograph or group, so none can be left out to compare models by."
        )
    if not choice.can_tell and prefer != "accuracy":
        return (
            f"{_capital(taken.model.name)} was taken as the plainest model: the validation split "
            f"has too few independent photographs ({_units(taken)}) to tell whether another one "
            "is better."
        )
    own = f"{metric} {taken.left_out.score(metric):.4f}"
    if taken is best:
        return (
            f"{_capital(taken.model.name)} was taken because it scores best on validation "
            f"photographs that were left out when it was made ({own}).{_promise(choice)}"
        )
    lost, times = choice.behind[choice.taken], best.cost.seconds_per_mpx
    errors = "the standard error" if prefer == "balance" else "two standard errors"
    return (
        f"{_capital(taken.model.name)} was taken because it is the cheapest whose score on "
        f"validation photographs that were left out when it was made ({own}) is within {errors} of "
        f"the best one's: {best.model.name} is better by {lost.value:.4f} ± {lost.error:.4f} and "
        f"takes {times / taken.cost.seconds_per_mpx:.1f} times as long.{_promise(choice)}"
    )


def _promise(choice: Choice) -> str:
    """By how much what is taken is better than the plainest model."""
    if choice.taken == 0:
        return ""
    error = f" ± {choice.promise.error:.4f}" if choice.can_tell else ""
    guess = "" if choice.can_tell else ", which is a guess: so few photographs are independent"
    return (
        f" By photographs that had no part in the choice either, {choice.promise.value:.4f}{error} "
        f"is gained over the best single trial{guess}."
    )


def _units(draft: Draft) -> str:
    left_out = draft.left_out
    units, photos = len(set(left_out.units)), len(left_out.photos)
    return f"{photos}" if units == photos else f"{photos} in {units} groups"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
