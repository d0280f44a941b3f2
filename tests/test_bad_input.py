"""Options that can't be right are told in one line, before anything is trained."""

from pathlib import Path

import pytest

from search import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "tests.tiny_space:spcae"], "has no 'spcae'"),
        (["--space", "no.such.module:space"], "can't be imported"),
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--time-budget", "4 hours"], "--time-budget '4 hours'"),
        (["--gpus-per-trial", "64"], "64 GPU(s)"),
        (["--tracking-uri", "http://127.0.0.1:9"], "http://127.0.0.1:9"),
        (["--address", "127.0.0.1:9"], "--address 127.0.0.1:9"),
        (["--resume", "/no/such/run"], "/no/such/run"),
        (["--space", "tests.test_bad_input:misspelled_architecture"], "Did you mean pspnet"),
        (["--space", "tests.test_bad_input:no_ground_size"], "no georeference"),
        (["--space", "tests.test_bad_input:wrong_loss_setting"], "gamma"),
        (["--name", "a/b"], "--name 'a/b'"),
    ],
)
def test_bad_input_gets_a_clear_message_before_anything_is_trained(
    arguments: list[str], message: str, blocks: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    defaults = ["--data", str(blocks), "--space", "tests.tiny_space:space"]
    if "--resume" in arguments:
        defaults = []
    assert run.main([*defaults, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/trials"))


def misspelled_architecture(trial):  # type: ignore[no-untyped-def]
    return _tiny(trial, architecture="pspnett", encoder="resnet18", model_kwargs={})


def no_ground_size(trial):  # type: ignore[no-untyped-def]
    return _tiny(trial, metres_per_px=trial.suggest_float("metres_per_px", 0.05, 0.5))


def wrong_loss_setting(trial):  # type: ignore[no-untyped-def]
    return _tiny(trial, loss="dice", loss_kwargs={"gamma": 2.0})


def _tiny(trial, **values: object):  # type: ignore[no-untyped-def]
    from tests.tiny_space import space

    return type(space(trial)).from_dict(space(trial).to_dict() | values)
