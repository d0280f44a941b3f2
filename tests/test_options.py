"""The options of a search in a file: a run's own, or one that a person wrote."""

import dataclasses
from pathlib import Path

import pytest

from search.planning.space import MAX_TRIALS
from search.run import main, parse_options
from search.runs.folder import RunFolder, RunRecord
from search.runs.options import LARGEST_SEED, SearchOptions
from segcore.errors import UserError


def parsed(*arguments: str) -> SearchOptions:
    return parse_options(arguments, "python -m search.run")


def test_a_run_is_started_again_by_its_own_file(tmp_path: Path) -> None:
    first = SearchOptions(
        data=str(tmp_path / "Fotos für später"), space="mylab.spaces:roofs", trials=40,
        max_epochs=27, metric="iou", gpus_per_trial=0.5, time_budget="4h", out=str(tmp_path),
    )  # fmt: skip
    run = RunFolder(tmp_path / "first")
    run.write(RunRecord("id", first, {"data": "abc"}))
    assert parsed("--options", str(run.record)) == first
    assert "Fotos für später" in run.record.read_text(), "people read it"
    # What the command line says stands over it.
    again = parsed("--options", str(run.record), "--trials", "80", "--name", "second")
    assert again == dataclasses.replace(first, trials=80, name="second")
    assert SearchOptions.from_file(run.record, trials=80, name="second") == again


def test_a_file_of_ones_own_needs_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "roofs.yaml"
    path.write_text("data: photos\nmax-epochs: 30\nscore_scale: 1\ntime_budget: 90m\n")
    assert parsed("--options", str(path)) == SearchOptions(
        data="photos", max_epochs=30, score_scale=1.0, time_budget="90m"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trails: 5", "no option 'trails'; did you mean trials?"),
        ("trials: many", "trials = 'many': should be a valid integer"),
        ("trials: 0", "--trials 0: must be at least 1"),
        ("seed: 1700000000", "--seed 1700000000: must be at most 100000000"),
        ("ensemble_latency: 0", "--ensemble-latency 0: must be above 0"),
        ("score_scale: 2", "--score-scale 2: must be above 0 and at most 1"),
        ("dry_run: true", "no option 'dry_run'"),
        ("- trials", "expected lines such as `trials: 100`"),
        ("", "expected lines such as `trials: 100`"),
        ("trials: [", "no valid YAML"),
        ("name: 2024", "name = 2024: should be a valid string"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert main(["--options", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_last_epoch_of_the_last_trial_has_a_seed_that_torch_takes() -> None:
    seed = (LARGEST_SEED + 1) * MAX_TRIALS - 1
    assert (seed * 100_003 + 10_000).bit_length() <= 64


def test_no_file_and_two_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--options nowhere\.yaml: No such file"):
        parsed("--options", "nowhere.yaml")
    with pytest.raises(UserError, match="a resumed run has its own options"):
        parsed("--options", "run.yaml", "--resume", str(tmp_path))


def test_a_run_of_a_cluster_goes_on_on_one_machine(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "run")
    run.write(RunRecord("id", SearchOptions(address="head:6379"), {"data": "abc"}))
    arguments = ["--resume", str(run.path)]
    assert parse_options(arguments, "run").address == "head:6379"
    assert parse_options([*arguments, "--address", "local"], "run").address is None
