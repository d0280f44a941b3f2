"""A strategy that errs doesn't end a search."""

from pathlib import Path

from optuna.trial import TrialState, create_trial

from search.planning.strategy import Fallback, Resume, Start
from search.runs.study import open_study


class Broken:
    """A strategy whose algebra has gone wrong."""

    def next(self) -> Start:
        raise ValueError("matrix is not positive definite")

    def goes_on(self, number: int, epoch: int) -> bool:
        raise ValueError("matrix is not positive definite")


def test_where_a_strategy_errs_trials_go_on_new_ones_are_sampled_and_it_is_said_once(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path / "study.journal", name="run", create=True)
    said: list[str] = []
    decided = Fallback(Broken(), study, 2, said.append)
    assert decided.next() == Start(None) and decided.goes_on(0, 1)
    for score in (0.3, 0.6):
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING, intermediate_values={1: score}, user_attrs={"paused": 1}
            )
        )
    assert decided.next() == Resume(1), "no more than two are to be begun"
    assert len(said) == 1 and "ValueError: matrix is not positive definite" in said[0]
