"""What a search makes of its trials: who becomes a candidate, what workers answer, what is told."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from search.ensembles.building import _photo_scores, _score, worth_predicting
from search.ensembles.drafts import Draft
from search.ensembles.models import Model
from search.ensembles.tasks import (
    Mixture,
    Said,
    Workplace,
    make_soup,
    predict,
    score_mixtures,
)
from search.ensembles.workers import Losses, Workers
from search.reporting.terminal import result_text
from search.runs.checkpoints import StoredCheckpoint
from search.runs.result import (
    Alternative,
    Cost,
    LeftOutScore,
    PhotoScore,
    SearchResult,
    WeightedTrial,
)
from search.runs.rows import TrialRow
from search.runs.storage import Location, NodeCopy
from search.trials.cluster import Slots
from search.trials.keeping import choose_candidates
from search.trials.line import Line
from segcore.choosing.pool import WHOLE, Pool, draw_pixels
from segcore.config import TrialConfig, View
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.data.splits import Split
from segcore.data.windows import Grid
from segcore.errors import UserError
from segcore.inference.scoring import prepared_photograph, prepared_picture
from segcore.predicting.ensemble import Ensemble, write_bundle
from segcore.scores.intervals import Evaluation, Interval
from segcore.scores.metrics import Scores, metric_of_counts
from segcore.training import checkpoint
from segcore.training.fit import fit
from tests.conftest import write_blocks
from tests.drawn_run import draw_run

CPU = torch.device("cpu")


def row(number: int, score: float | None, **config: object) -> TrialRow:
    values = {"encoder": "resnet18", **config}
    return TrialRow(number, "finished", score, None, None, 3, None, values, None)


def numbers(rows: list[TrialRow]) -> list[int]:
    return [one.number for one in rows]


def test_candidates_are_the_best_and_a_few_that_are_different() -> None:
    rows = [row(n, 0.9 - n / 100) for n in range(20)]
    rows[12] = row(12, rows[12].score, loss="dice")
    rows[15] = row(15, rows[15].score, architecture="pspnet", loss="dice")
    rows[17] = row(17, rows[17].score, loss="dice")  # 12 is of this kind, and better
    assert numbers(choose_candidates(rows, 8)) == [0, 1, 2, 3, 4, 5, 12, 15]


def test_where_all_trials_are_alike_candidates_are_the_best() -> None:
    rows = [*(row(n, 0.9 - n / 100) for n in range(20)), row(20, None)]
    assert numbers(choose_candidates(rows, 8)) == list(range(8))
    assert numbers(choose_candidates(rows[18:], 8)) == [18, 19]
    assert numbers(choose_candidates(rows, 1)) == [0]


def test_trials_that_know_hardly_more_than_one_class_are_no_candidates() -> None:
    """Naming the first class everywhere has a Dice of 0.474, a fifth of the way to 0.8 is 0.539."""
    pixels_PK = np.array([[40, 10], [50, 0]])
    scores = [0.8, 0.7, 0.6, 0.54, 0.53, 0.1, None]
    rows = [row(n, score) for n, score in enumerate(scores)]
    assert numbers(worth_predicting(rows, "dice", pixels_PK)) == [0, 1, 2, 3]
    few = [rows[0], *rows[4:]]  # the best three stay in any case
    assert numbers(worth_predicting(few, "dice", pixels_PK)) == [0, 4, 5]
    assert worth_predicting(rows[6:], "dice", pixels_PK) == []


@pytest.fixture(scope="module")
def prepared(blocks: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    cache = tmp_path_factory.mktemp("cache")
    return prepare_data(blocks, [View(48, 48), View(32, 32, 0.5)], cache_dir=cache, progress=False)


@pytest.fixture(scope="module")
def trials(
    prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> list[StoredCheckpoint]:
    """Three trained networks of one architecture. The last one sees windows at half the scale."""
    stored = []
    views = [View(48, 48), View(48, 48), View(32, 32, 0.5)]
    for view, lr in zip(views, (1e-2, 2e-2, 5e-3), strict=True):
        config = TrialConfig(
            **view._asdict(), architecture="scratch_unet", encoder=None, lr=lr,
            model_kwargs={"base_channels": 4, "depth": 2}, batch_size=4, max_epochs=3,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("trial")
        *_, last = fit(config, prepared, device=CPU)
        last.save(folder)
        stored.append(StoredCheckpoint(Location.parse(folder), checkpoint.load_info(folder)))
    return stored


@pytest.fixture(scope="module")
def place(prepared: PreparedData) -> Workplace:
    return Workplace(NodeCopy("", None, prepared.folder), cpus=1, gpus=0)


def say(
    networks: list[StoredCheckpoint], place: Workplace, split: Split, *weightings: Sequence[float]
) -> list[Said]:
    """What mixtures of these networks say; those of weight 0 are no members."""
    mixtures = [
        Mixture(tuple((n, weight) for n, weight in enumerate(weights) if weight), None)
        for weights in weightings
    ]
    return score_mixtures(networks, place, split, mixtures)


def test_what_candidates_send_gives_the_score_of_their_mixture(
    trials: list[StoredCheckpoint], place: Workplace, prepared: PreparedData
) -> None:
    photos = prepared.of_split("val").tolist()
    pixels = draw_pixels([prepared.score_mask(photo) for photo in photos], 3, limit=10**9)
    mixed = [trials[0], trials[2]]
    answers = [predict(stored, place, "val", pixels.position_N, photos[1:2]) for stored in mixed]
    for stored, (prediction, probs_NK) in zip(mixed, answers, strict=True):
        # Validation has less overlap, which matters only to the network that sees windows.
        close = 1e-6 if stored.info.config.view.is_whole else 0.05
        assert prediction.scores.dice == pytest.approx(stored.info.score, abs=close)
        assert {p: class_HW.shape for p, class_HW in prediction.class_HW.items()} == {
            photos[1]: prepared.plans[photos[1]].score_grid
        }
        assert prediction.latency_s > 0
        np.testing.assert_allclose(probs_NK.sum(axis=1, dtype=np.int64), WHOLE, atol=2)
    pool = Pool.of(pixels, [probs_NK for _, probs_NK in answers])
    exact = say(mixed, place, "val", [2 / 3, 1 / 3])[0].scores
    counts = pool.counts(pool.mix((0, 0, 1)))
    np.testing.assert_allclose(counts, exact.counts_P3K, atol=2)  # of 2304 pixels, near ties
    assert metric_of_counts("dice", counts) == pytest.approx(exact.dice, abs=1e-3)


def test_a_mixture_scores_what_its_bundle_predicts(
    trials: list[StoredCheckpoint], place: Workplace, prepared: PreparedData, tmp_path: Path
) -> None:
    weights = [0.5, 0.3, 0.2]
    scores = say(trials, place, "test", weights)[0].scores
    members = [
        (Path(stored.location.path), weight) for stored, weight in zip(trials, weights, strict=True)
    ]
    write_bundle(tmp_path / "bundle", members, metric="dice", scores={})
    ensemble = Ensemble.load(tmp_path / "bundle", CPU)
    assert {member.view.scale for member in ensemble.members} == {None, 0.5}
    right = total = 0
    for number in prepared.of_split("test").tolist():
        truth_HW = prepared.score_mask(number)
        labelled = truth_HW != 255
        photo = prepared_photograph(prepared, number)
        for strip in ensemble.strips(photo, size_px=prepared.plans[number].score_grid):
            here = strip.rows, strip.columns
            class_HW = strip.probs_KHW.argmax(dim=0).numpy()
            right += (class_HW == truth_HW[here])[labelled[here]].sum()
        total += labelled.sum()
    assert scores.pixel_accuracy == pytest.approx(right / total, abs=1e-6)


def test_a_split_may_be_scored_in_parts(trials: list[StoredCheckpoint], place: Workplace) -> None:
    mixtures = [Mixture(((0, 1.0),), None), Mixture(((1, 0.3), (0, 0.7)), (2.0, 1.0, 1.0))]
    networks = [trials[0], trials[2]]
    whole = score_mixtures(networks, place, "test", mixtures)
    parts = [score_mixtures(networks, place, "test", mixtures, (part, 6)) for part in range(6)]
    assert [len(part) for part in parts] == [2, 2, 2, 2, 0, 0]  # of 4 photographs
    for said, *of_parts in zip(whole, *filter(None, parts), strict=True):
        joined = Said.joined(of_parts)
        np.testing.assert_array_equal(joined.scores.counts_P3K, said.scores.counts_P3K)
        np.testing.assert_array_equal(joined.scores.confusion_KK, said.scores.confusion_KK)
        np.testing.assert_allclose(joined.uncertainty_P, said.uncertainty_P)
        assert joined.scores.dice == said.scores.dice


def test_mixing_in_another_trial_can_but_add_to_the_disagreement(
    trials: list[StoredCheckpoint], place: Workplace
) -> None:
    weightings = [0.5, 0.5, 0], [0.5, 0, 0.5], [1, 0, 0], [0, 0, 1]
    networks = [trials[0], trials[0], trials[2]]
    twins_P, mixed_P, alone_P, other_P = (
        said.uncertainty_P for said in say(networks, place, "test", *weightings)
    )
    assert len(twins_P) == 4
    np.testing.assert_allclose(twins_P, alone_P, atol=1e-6)
    mean_P = (alone_P + other_P) / 2
    assert (mixed_P > mean_P - 1e-6).all() and (mixed_P < 1).all()


def test_pictures_of_large_photographs_are_small(
    trials: list[StoredCheckpoint], place: Workplace, prepared: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("search.ensembles.tasks.SHOWN_PX", 20)
    photo = int(prepared.of_split("val")[0])
    said, _ = predict(trials[0], place, "val", shown=[photo])
    assert said.class_HW[photo].shape == (20, 20)
    image_HWC, truth_HW = prepared_picture(prepared, photo, Grid(20, 20))
    assert (image_HWC.shape, truth_HW.shape) == ((20, 20, 3), (20, 20))


def test_photographs_of_one_band_are_shown_in_grey(tmp_path: Path) -> None:
    folder = write_blocks(tmp_path / "grey", count=8)
    with (folder / "dataset.yaml").open("a") as spec:
        spec.write("bands: [2]\n")
    data = prepare_data(folder, [View(32, 32)], cache_dir=tmp_path, progress=False)
    image_HWC, _ = prepared_picture(data, 0, Grid(20, 20))
    assert image_HWC.shape == (20, 20, 3)
    assert (image_HWC == image_HWC[..., :1]).all()


def test_a_soup_of_twins_is_as_good_as_either(
    trials: list[StoredCheckpoint], place: Workplace, prepared: PreparedData
) -> None:
    photos = prepared.of_split("val").tolist()
    pixels = draw_pixels([prepared.score_mask(photo) for photo in photos], 3, limit=10**9)
    times_BP = np.array([[2, 1, 1, 0], [0, 0, 0, 4]])
    assert make_soup(trials[:1], place, "dice", pixels.position_N, times_BP) is None
    made = make_soup([trials[2], trials[2]], place, "dice", pixels.position_N, times_BP)
    assert made is not None and made.kept == (0, 1) and made.bag_kept == ((0, 1), (0, 1))
    # Its weights are those of its ingredients; only the batch normalisation was mended.
    said, probs_NK = predict(made.soup, place, "val", pixels.position_N)
    np.testing.assert_allclose(probs_NK.astype(int), made.probs[0, 1].astype(int), atol=3)
    again = Pool.of(pixels, made.probs.values())
    score = metric_of_counts("dice", again.counts(again.mix([0])))
    assert said.scores.dice == pytest.approx(score, abs=1e-3)
    assert said.cost.networks == 1 and said.cost.seconds_per_mpx > 0


def test_factors_change_what_is_named_and_nothing_else(
    trials: list[StoredCheckpoint], place: Workplace, prepared: PreparedData, tmp_path: Path
) -> None:
    """The bundle's masks are those that the search scored, and can be had without factors."""
    factors = (0.5, 1.0, 3.0)
    mixtures = [Mixture(((0, 1.0),), chosen) for chosen in (None, factors)]
    said = score_mixtures(trials[:1], place, "test", mixtures)
    plain, fitted = (one.scores for one in said)
    predicted_K = [scores.counts_P3K[:, 1].sum(axis=0) for scores in (plain, fitted)]
    assert predicted_K[1][0] < predicted_K[0][0] and predicted_K[1][2] > predicted_K[0][2]
    write_bundle(
        tmp_path / "bundle", [(Path(trials[0].location.path), 1.0)], metric="dice", scores={},
        factors=dict(zip(prepared.class_names, factors, strict=True)),
    )  # fmt: skip
    for use_factors, expected_K in zip((False, True), predicted_K, strict=True):
        ensemble = Ensemble.load(tmp_path / "bundle", CPU, use_factors=use_factors)
        named_K = np.zeros(3, np.int64)
        for number in prepared.of_split("test").tolist():
            photo, truth_HW = prepared_photograph(prepared, number), prepared.score_mask(number)
            classes_HW = ensemble.classes(photo, prepared.plans[number].score_grid)
            named_K += np.bincount(classes_HW[truth_HW != 255], minlength=3)
        np.testing.assert_array_equal(named_K, expected_K)
        np.testing.assert_allclose(ensemble.probs(prepared.image(0)).sum(axis=0), 1, atol=1e-5)


class InlineWorkers(Workers):
    """Does tasks in this process, when their answers are asked for."""

    def start(self, function: Callable[..., Any], networks: Any, *arguments: Any) -> Any:
        return partial(function, networks, self._place, *arguments)

    def finished(self, task: Any) -> Any:
        return task()


def test_models_of_a_checkpoint_that_is_torn_are_left_out_and_all_others_scored(
    trials: list[StoredCheckpoint], place: Workplace, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trials[1].location.path, tmp_path / "torn"))
    weights = folder / "model.safetensors"
    weights.write_bytes(b"?" * weights.stat().st_size)
    torn = StoredCheckpoint(Location.parse(folder), trials[1].info)
    singles = [Model.of_trial(n, [one]) for n, one in enumerate((trials[0], torn, trials[2]))]
    mean = Model.mean_of("mean of the best 2", singles, [0.5, 0.5, 0])
    both = Model.mean_of("ensemble of 2", singles, [0.3, 0, 0.7])
    left_out: Any = None
    drafts = [Draft(model, left_out, Cost(1, 1.0, 1)) for model in [*singles, mean, both]]
    plan: Any = SimpleNamespace(data_on_nodes=place.data)
    workers = InlineWorkers(plan, Slots(1, 0, wanted=3), Line(Console(quiet=True)))

    losses = Losses()
    kept, scored = _score(drafts, workers, losses)
    assert [draft.model.name for draft in kept] == ["trial 0", "trial 2", "ensemble of 2"]
    assert [sentence.partition(": ")[0] for sentence in losses.sentences] == [
        "trial 1 could not be scored", "mean of the best 2 could not be scored",
    ]  # fmt: skip
    assert all("torn/model.safetensors" in sentence for sentence in losses.sentences)
    without = [drafts[0], drafts[2], drafts[4]]
    same, at_once = _score(without, workers, Losses())
    assert same == without
    for (val, test), (val_at_once, test_at_once) in zip(scored, at_once, strict=True):
        assert val == val_at_once
        np.testing.assert_array_equal(test.scores.counts_P3K, test_at_once.scores.counts_P3K)
    with pytest.raises(UserError, match=r"torn/model\.safetensors"):
        _score(drafts[1:], workers, losses)


def search_result(trials: dict[int, float]) -> SearchResult:
    def evaluation(value: float, photos: int, units: int) -> Evaluation:
        interval = Interval(value, value - 0.05, value + 0.05)
        return Evaluation(
            photos, units, {"dice": interval}, (value, None), (value, None), ((3, 1), (0, 0))
        )

    def model(name: str, weights: dict[int, float], val: float, test: float) -> Alternative:
        shares = tuple(WeightedTrial(number, weight) for number, weight in weights.items())
        return Alternative(
            name, shares, {"Grass": 0.8, "Roof": 1.25}, Cost(len(weights), 0.25, 1000),
            LeftOutScore(val - 0.01, 0.8 - val, 0.004),
            evaluation(val, 40, 6), evaluation(test, 27, 3),
        )  # fmt: skip

    return SearchResult(
        metric="dice",
        class_names=("Grass", "Roof"),
        alternatives=(
            model("trial 3", {3: 1.0}, 0.78, 0.72),
            model("mean of the best 5", {3: 0.5, 7: 0.5}, 0.77, 0.73),
            model("ensemble of 2", {3: 0.75, 7: 0.25}, 0.8, 0.75),
        ),
        taken=0 if len(trials) == 1 else 2,
        prefer="balance",
        why="It was taken because it scores best.",
        candidates={"trial 3": Interval(0.78, 0.7, 0.8)},
        photos=(PhotoScore("a.jpg", 5, 0.7, 0.1), PhotoScore("nothing on it.jpg", 6, None, 0.2)),
        seconds={"make models of the trials": 2.0},
    )


ENSEMBLE = {3: 0.75, 7: 0.25}


def test_a_photograph_whose_labels_are_lost_on_the_score_grid_has_no_score() -> None:
    """It had NaN, which JSON can't hold: the search could not read its own result.json."""
    counts_P3K = np.array([[[4, 0], [4, 0], [4, 0]], [[0, 0], [9, 0], [0, 0]]])
    scores = Scores.of(counts_P3K, np.zeros((2, 2), np.int64))
    said: Any = SimpleNamespace(scores=scores, uncertainty_P=np.array([0.1, 0.2]))
    data = SimpleNamespace(photos=("a.jpg", "b.jpg"), of_split=lambda split: np.array([0, 1]))
    plan: Any = SimpleNamespace(data=data)
    assert [photo.score for photo in _photo_scores(plan, said)] == [1.0, None]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert SearchResult.read(tmp_path) is None
    result = search_result(ENSEMBLE)
    written = result.write(tmp_path)
    assert SearchResult.read(tmp_path) == written == result
    assert written.bundle == tmp_path / "ensemble"
    values = json.loads((tmp_path / "result.json").read_text())
    assert values["format"] == 5 and "folder" not in values
    (tmp_path / "result.json").write_text(json.dumps({**values, "metric": "beauty"}))
    with pytest.raises(UserError, match=r"result\.json: damaged \(metric"):
        SearchResult.read(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "\x00", '{"format": 5}', '{"format"'])
def test_a_damaged_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json: damaged .*; resume the search"):
        SearchResult.read(tmp_path)


@pytest.mark.parametrize("content", ['{"metric": "dice"}', '{"format": 4}', '{"format": 6}'])
def test_a_result_of_another_version_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    again = "of another version; resume the search to write it again"
    with pytest.raises(UserError, match=rf"result\.json: {again}"):
        SearchResult.read(tmp_path)


def test_a_person_reads_what_was_taken_why_and_the_honest_scores() -> None:
    text = result_text(search_result(ENSEMBLE))
    assert text.startswith(
        "[bold]Ensemble of 2[/]: dice [bold]0.7500[/] (95 % interval 0.7000 – 0.8000) on 27 test "
        "images that nothing before has seen\n  trial 3 ×0.75, trial 7 ×0.25\n"
    )
    assert "It was taken because it scores best." in text
    assert "Test: The intervals are a guess: they rest on 3 independent groups" in text
    assert "Validation: The intervals" not in text, "six groups are enough"
    head, *rows = [line for line in text.splitlines() if line.startswith("  [")]
    assert "model                 test    95 % interval  left out  s per megapixel" in head
    assert "→ ensemble of 2       0.7500  0.7000 – 0.8000    0.7900             0.25" in rows[2]
    assert [len(row) for row in rows] == [len(rows[0])] * 3
    assert "It was chosen by 40 validation images, where it scores 0.0500 higher." in text


def test_a_person_reads_that_a_single_trial_was_taken() -> None:
    text = result_text(search_result({3: 1.0}))
    assert text.startswith("[bold]Trial 3[/]: dice [bold]0.7200[/]")
    assert "→ trial 3 " in text and "  ensemble of 2" in text


def test_a_result_knows_the_trials_and_the_bundle_of_its_run(
    blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = draw_run(tmp_path, blocks, trials=8)
    result = SearchResult.read(run.path)
    assert result is not None
    assert len(result.leaderboard) == 8 and result.leaderboard[0].score is not None
    table = result.data_frame()
    assert list(table["trial"]) == [row.number for row in result.leaderboard]
    assert table["score"].max() == result.leaderboard[0].score
    assert set(table["loss"]) == {row.config.loss for row in result.leaderboard if row.config}
    image = np.zeros((50, 70, 3), np.uint8)
    for folder in (result.bundle, str(result.bundle)):
        assert Ensemble.load(folder).predict(image).shape == (50, 70)
    assert result.write(run.path) == result
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas: pip install pandas"):
        result.data_frame()
