"""A plan in words: what trials are trained on, and what they are scored by."""

import math
from collections.abc import Iterable

from search.planning.plan import Plan
from search.planning.strategies import epoch_budget
from search.runs.options import SearchOptions
from search.runs.rows import show_duration
from segcore.errors import counted


def show_amount(options: SearchOptions, slots: int, *, on_cpu: bool) -> str:
    """How much will be trained: ``10 trials of up to 18 epochs, 2 at a time on the CPU``."""
    trials = f"{options.trials} trials of up to {options.max_epochs} epochs"
    at_a_time = f"{slots} at a time on {'the CPU' if on_cpu else 'GPUs'}"
    if not options.pauses:
        return f"{trials}, {at_a_time}"
    time_s, budget = options.time_budget_s, epoch_budget(options)
    ends = f"{budget} epochs together" if time_s is None else f"for {show_duration(time_s)}"
    return f"At most {trials}, {ends}, {at_a_time}"


def show_final_trainings(options: SearchOptions) -> list[str]:
    """What follows the search, such as ``8 trainings follow: 4 trials with 2 other seeds each``."""
    kinds = [(options.repeats, "with {} other seeds each")]
    if options.folds > 1:
        kinds.append((options.folds, "on {} folds each"))
    return [
        f"{count * options.final_trials} trainings follow: {options.final_trials} trials "
        + words.format(count)
        for count, words in kinds
        if count
    ]


FREEZE_THAW = (
    "a trial is paused where another promises more per second of training, and may go on from its "
    "checkpoint later"
)
"""What a person should know who reads that trials are paused."""


def show_paused(paused: int, options: SearchOptions, run: str) -> str:
    """How trials go on that are paused when a search ends; ``run`` is ``RunFolder.quoted``."""
    trials = "1 trial is" if paused == 1 else f"{paused} trials are"
    if options.time_budget is not None:
        return f"{trials} paused; to go on for another {options.time_budget}: --resume {run}"
    return f"{trials} paused; to go on: --resume {run}, with more --trials or a --time-budget"


def trained_on(plan: Plan) -> str:
    """Such as ``71 training photographs, 0.87 megapixels an epoch``."""
    data, folds = plan.data, plan.options.folds
    if plan.searched is not None:
        data = data.divided_for(plan.networks[0].model_copy(update={"fold": 0, "folds": folds}))
    photos = len(data.of_split("train"))
    epoch_mpx = plan.options.epoch_megapixels or data.epoch_px() / 1e6
    return f"{counted(photos, 'training photograph')}, {epoch_mpx:.3g} megapixels an epoch"


def show_views(plan: Plan) -> str:
    """How networks may look at the photographs, such as ``256×256 px at scale 0.25 … 1``."""
    looks = []
    for name, found in (
        ("at scale", [view.scale for view in plan.views if view.scale is not None]),
        (
            "at metres per pixel",
            [v.metres_per_px for v in plan.views if v.metres_per_px is not None],
        ),
    ):
        if found:
            looks.append(f"{name} {_ends(f'{number:.3g}' for number in sorted(found))}")
    if any(view.is_whole for view in plan.views):
        looks.append("of photographs as a whole")
    return f"{_show_sizes(view[:2] for view in plan.views)} {', or '.join(looks)}"


def show_score_grids(plan: Plan) -> str:
    """The sizes at which photographs are scored, such as ``300×400 … 3000×4000 px``."""
    return _show_sizes(photo.score_grid for photo in plan.data.plans)


def _show_sizes(sizes: Iterable[tuple[int, int]]) -> str:
    by_area = sorted(sizes, key=lambda size: (math.prod(size), size))
    return f"{_ends(f'{height}×{width}' for height, width in by_area)} px"


def _ends(words: Iterable[str]) -> str:
    """The first and the last of some words, or the only one."""
    ordered = list(words)
    return " … ".join(dict.fromkeys((ordered[0], ordered[-1])))
