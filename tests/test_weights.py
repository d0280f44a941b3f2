"""Encoder weights: fetched from a hub on loopback, read safely, checked key by key."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.networks.weights import (
    IMAGENET,
    Statistics,
    encoder_weights_file,
    gather_weights,
    load_encoder_weights,
    usual_statistics,
)
from segcore.reading.bands import Bands

ROOT = Path(__file__).parents[1]
REAL_WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
CLASSIC, TIMM = "mobilenet_v2", "tu-mobilenetv3_small_050"
HALF = Statistics((0.5,) * 3, (0.5,) * 3)


def random_encoder(name: str, depth: int = 5) -> nn.Module:
    encoder: nn.Module = smp.encoders.get_encoder(name, weights=None, depth=depth)
    return encoder


def real_weights(name: str) -> Path:
    path = REAL_WEIGHTS / f"{name}.pth"
    if not path.is_file():
        pytest.skip(f"{path} isn't here: really pretrained weights are no part of the repository")
    return path


@dataclass
class Fetched:
    """What ``python -m segcore.weights`` did, and the weights that the hub served."""

    returncode: int
    output: str
    errors: str
    folder: Path
    served: dict[str, Tensor]


def hub_files() -> tuple[dict[str, bytes], dict[str, dict[str, Tensor]]]:
    """Files of the two repositories by path, and the weights in them, classifiers included."""
    classic = random_encoder(CLASSIC).state_dict()
    classic |= {"classifier.1.weight": torch.ones(10, 1280), "classifier.1.bias": torch.ones(10)}
    whole = timm.create_model(TIMM.removeprefix("tu-")).state_dict()
    settings = smp.encoders.encoders[CLASSIC]["pretrained_settings"]["imagenet"]
    # Statistics that nobody could guess: they must come from the hub.
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_range": [0, 1]}
    timm_repository = timm.models.get_pretrained_cfg(TIMM.removeprefix("tu-")).hf_hub_id
    classic_folder = f"/{settings['repo_id']}/resolve/{settings['revision']}"
    files = {
        f"{classic_folder}/config.json": json.dumps(config).encode(),
        f"{classic_folder}/model.safetensors": save(classic),
        f"/{timm_repository}/resolve/main/model.safetensors": save(whole),
    }
    return files, {CLASSIC: classic, TIMM: whole}


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does: the file, its ETag and the commit it belongs to."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.send_header("ETag", f'"{hash(self.path) & 0xFFFFFFFF:040x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Fetched]]:
    """The real command for each kind of encoder, and one where nothing listens; all at once."""
    files, served = hub_files()
    handler = type("Handler", (Hub,), {"files": files})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    closed = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    closed.server_close()
    ports = {CLASSIC: server.server_port, TIMM: server.server_port, "nobody": closed.server_port}
    processes, folders = {}, {}
    for what, port in ports.items():
        folders[what] = tmp_path_factory.mktemp(what)
        environment = {
            **{key: value for key, value in os.environ.items() if "PROXY" not in key.upper()},
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path_factory.mktemp("hub")),
            "HF_HUB_OFFLINE": "0",
        }
        encoder = CLASSIC if what == "nobody" else what
        command = ["-m", "segcore.weights", "--encoder", encoder, "--weights-dir", folders[what]]
        processes[what] = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    results = {}
    for what, process in processes.items():
        output, errors = process.communicate(timeout=120)
        results[what] = Fetched(
            process.returncode, output, errors, folders[what], served.get(what, {})
        )
    server.shutdown()
    server.server_close()
    yield results


def test_weights_of_smps_own_encoder_come_from_the_hub_with_their_statistics(
    fetched: dict[str, Fetched],
) -> None:
    result = fetched[CLASSIC]
    assert result.returncode == 0, result.errors
    config = TrialConfig(encoder=CLASSIC, encoder_weights="imagenet")
    path = encoder_weights_file(config, result.folder)  # there already: no network is asked
    assert path == result.folder / "mobilenet_v2.safetensors"
    encoder = random_encoder(CLASSIC)
    assert load_encoder_weights(encoder, CLASSIC, path) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, result.served[key])


def test_weights_of_a_timm_encoder_come_from_the_hub(fetched: dict[str, Fetched]) -> None:
    result = fetched[TIMM]
    assert result.returncode == 0, result.errors
    encoder = random_encoder(TIMM)
    path = result.folder / f"{TIMM}.safetensors"
    statistics = load_encoder_weights(encoder, TIMM, path)
    assert statistics == usual_statistics(encoder, TIMM)
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, result.served[key.removeprefix("model.")])


def test_fetching_leaves_one_whole_file_and_prints_its_path(fetched: dict[str, Fetched]) -> None:
    for name in (CLASSIC, TIMM):
        folder, path = fetched[name].folder, Path(fetched[name].output.strip())
        assert {path, path.with_name(f".{path.name}.lock")} == set(folder.iterdir())


def test_where_no_hub_answers_one_line_says_what_to_do(fetched: dict[str, Fetched]) -> None:
    result = fetched["nobody"]
    assert result.returncode == 1
    assert "python -m segcore.weights --encoder mobilenet_v2" in result.errors
    assert "HTTPS_PROXY" in result.errors
    assert f"copy mobilenet_v2.safetensors to {result.folder}" in result.errors
    assert "Traceback" not in result.errors
    assert "Retrying" not in result.errors  # the hub's client alone would for a minute
    assert list(result.folder.iterdir()) == []


def test_random_weights_need_no_file(tmp_path: Path) -> None:
    assert encoder_weights_file(TrialConfig(encoder_weights=None), tmp_path) is None


def test_a_path_is_taken_as_it_is_and_a_missing_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    config = TrialConfig(encoder_weights=str(path))
    with pytest.raises(UserError, match=r"mine\.pth.*no such file"):
        encoder_weights_file(config, tmp_path)
    path.touch()
    assert encoder_weights_file(config, tmp_path) == path


@pytest.mark.parametrize(
    ("encoder", "weights", "available"),
    [
        ("dpn68b", "imagenet", "imagenet+5k"),
        ("resnet50", "noisy-student", "ssl"),
        ("tu-resnet18", "ssl", "tu-resnet18.a1_in1k"),
    ],
)
def test_unknown_weights_are_refused_with_those_that_exist(
    tmp_path: Path, encoder: str, weights: str, available: str
) -> None:
    config = TrialConfig(encoder=encoder, encoder_weights=weights)
    with pytest.raises(UserError, match=f"has no weights '{weights}'") as caught:
        encoder_weights_file(config, tmp_path)
    assert available in str(caught.value)


def test_weights_without_an_encoder_are_refused(tmp_path: Path) -> None:
    config = TrialConfig(architecture="scratch_unet", encoder=None, encoder_weights="imagenet")
    with pytest.raises(UserError, match=r"scratch_unet.*no encoder"):
        encoder_weights_file(config, tmp_path)


def test_files_of_weights_are_gathered_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "gathered"
    for name in ("a.pth", "b.safetensors"):
        (tmp_path / name).write_text(name)
    configs = [TrialConfig(encoder_weights=str(tmp_path / n)) for n in ("a.pth", "b.safetensors")]
    for _ in range(2):  # the second time they are there already
        gather_weights([*configs, TrialConfig()], folder)
        assert (folder / "a.pth").read_text() == "a.pth"
        assert (folder / "b.safetensors").read_text() == "b.safetensors"
    (tmp_path / "a.pth").unlink()
    assert encoder_weights_file(configs[0], folder) == folder / "a.pth"
    other = TrialConfig(encoder_weights=str(tmp_path / "other" / "a.pth"))
    with pytest.raises(UserError, match="files of the same name; rename one"):
        gather_weights([configs[0], other], folder)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_both_kinds_of_file_load(tmp_path: Path, kind: str) -> None:
    source, target = random_encoder("resnet18"), random_encoder("resnet18")
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    assert load_encoder_weights(target, "resnet18", path) == IMAGENET
    assert torch.equal(target.conv1.weight, source.conv1.weight)


def test_only_what_reads_the_image_is_made_for_its_colours(tmp_path: Path) -> None:
    """A layer in groups of three channels, as dpn92 has, has nothing to do with colours."""
    state = _two_layers().state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    encoder = _two_layers()
    load_encoder_weights(encoder, "own", path, Bands((1, 2, 3), colors=(2, 1, 0)))
    assert torch.equal(encoder[0].weight, state["0.weight"].flip(1))
    assert torch.equal(encoder[1].weight, state["1.weight"])


def _two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=2))


def test_missing_unknown_and_misshapen_parameters_are_named(tmp_path: Path) -> None:
    state = random_encoder("resnet18").state_dict()
    del state["layer4.1.bn2.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        load_encoder_weights(random_encoder("resnet18"), "resnet18", path)
    message = str(caught.value)
    assert "1 missing (layer4.1.bn2.weight)" in message
    assert "1 unknown (layer9.weight)" in message
    assert "conv1.weight (64, 4, 7, 7) instead of (64, 3, 7, 7)" in message


def test_a_file_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"conv1.weight": _Touch(trace)}, path)
    with pytest.raises(UserError, match="not readable as weights"):
        load_encoder_weights(random_encoder("resnet18"), "resnet18", path)
    assert not trace.exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_training_checkpoint_instead_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": random_encoder("resnet18").state_dict()}, path)
    with pytest.raises(UserError, match="holds more than weights"):
        load_encoder_weights(random_encoder("resnet18"), "resnet18", path)


def test_a_shallow_timm_encoder_takes_the_whole_file_but_nothing_foreign(tmp_path: Path) -> None:
    state = random_encoder("tu-resnet10t").state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    shallow = random_encoder("tu-resnet10t", depth=3)
    assert len(shallow.state_dict()) < len(state)
    load_encoder_weights(shallow, "tu-resnet10t", path)
    assert torch.equal(shallow.state_dict()["model.conv1.0.weight"], state["model.conv1.0.weight"])
    save_file(state | {"model.layer9.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="1 unknown"):
        load_encoder_weights(shallow, "tu-resnet10t", path)


@pytest.mark.parametrize(
    ("encoder", "mean", "std"),
    [
        ("resnet34", IMAGENET.mean, IMAGENET.std),
        ("xception", HALF.mean, HALF.std),
        ("timm-tf_efficientnet_lite0", HALF.mean, HALF.std),
        ("dpn68", (0.48627, 0.45882, 0.40784), (0.23482,) * 3),
    ],
)
def test_usual_statistics_are_those_published_with_the_weights(
    encoder: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    statistics = usual_statistics(None, encoder)
    assert statistics.mean == pytest.approx(mean, abs=1e-5)
    assert statistics.std == pytest.approx(std, abs=1e-5)


def test_real_weights_of_tf_efficientnet_lite0_load_and_want_half(tmp_path: Path) -> None:
    path = real_weights("tu-tf_efficientnet_lite0")
    encoder = random_encoder("tu-tf_efficientnet_lite0")
    assert load_encoder_weights(encoder, "tu-tf_efficientnet_lite0", path) == HALF
    wanted = torch.load(path, weights_only=True)
    assert all(torch.equal(value, wanted[key]) for key, value in encoder.state_dict().items())


def test_real_weights_of_mobilenet_v2_load_and_want_imagenets(tmp_path: Path) -> None:
    path = real_weights("mobilenet_v2")
    encoder = random_encoder("mobilenet_v2")
    assert load_encoder_weights(encoder, "mobilenet_v2", path) == IMAGENET
    assert torch.equal(
        encoder.features[0][0].weight, torch.load(path, weights_only=True)["features.0.0.weight"]
    )


def test_real_weights_with_one_parameter_lost_are_refused(tmp_path: Path) -> None:
    state = torch.load(real_weights("mobilenet_v2"), weights_only=True)
    del state["features.18.0.weight"]
    path = tmp_path / "torn.pth"
    torch.save(state, path)
    with pytest.raises(UserError, match=r"1 missing \(features\.18\.0\.weight\)"):
        load_encoder_weights(random_encoder("mobilenet_v2"), "mobilenet_v2", path)
