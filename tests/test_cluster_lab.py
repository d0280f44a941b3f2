"""The shipped cluster.yaml on several machines, made of one: ``ray up`` to ``ray down``.

Five machines: the user's laptop, a head, two workers that say they have a GPU each, and one that
serves S3. The user has a data set in a bucket, and a space and a loss in a folder of their own.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.conftest import write_blocks
from tests.lab.machines import Lab, why_not
from tests.test_cluster_yaml import variant

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

PROJECT = Path(__file__).parents[1]
STORAGE = "s3://my-bucket/segsearch"
DASHBOARD = "http://127.0.0.1:8265"
"""Ray's, on the laptop, through the tunnel."""
TRIALS, EPOCHS = 8, 4

SPACE = """
import mylab.losses
from mylab.tiny_space import space as tiny

def space(trial):
    changes = {"loss": "mylab.losses:Doubled", "augmentation": "mylab.losses:slow"}
    return tiny(trial).model_copy(update=changes)
"""

LOSSES = """
import time

import torch
from segcore.training.augment import A, Augmentation, aerial
from segcore.config import IGNORE_INDEX

class Doubled(torch.nn.Module):
    def forward(self, logits_NKHW, mask_NHW):
        loss = torch.nn.functional.cross_entropy(logits_NKHW, mask_NHW, ignore_index=IGNORE_INDEX)
        return 2 * loss

def slow(strength, height_px, width_px):
    def wait(image, **_):
        time.sleep(0.6)
        return image
    usual = aerial(strength, height_px, width_px)
    return Augmentation(usual.geometry, A.Compose([A.Lambda(image=wait, p=1.0)]))
"""

AWS = {
    "AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab-secret",
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://10.77.0.14:9000",
}  # fmt: skip
WORKER = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2, "GPU": 1}', "SEGSEARCH_PRETEND_GPUS": "1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab") / "machines"
    names = ("laptop", "head", "w1", "w2", "store")
    with Lab(folder, names, {"": AWS, "w1": WORKER, "w2": WORKER}) as lab:
        for name in names:
            lab.boot(name)
        start_s3(lab)
        fill_laptop(lab)
        yield lab


def start_s3(lab: Lab) -> None:
    lab.run("store", "(nohup moto_server -H 0.0.0.0 -p 9000 > moto.log 2>&1 &) ; sleep 0.1")
    create = "import boto3; boto3.client('s3').create_bucket(Bucket='my-bucket')"
    for _ in range(60):
        try:
            lab.run("store", f'python -c "{create}"')
            return
        except RuntimeError:
            time.sleep(1)
    raise RuntimeError(lab.run("store", "cat moto.log"))


def fill_laptop(lab: Lab) -> None:
    home = lab.folder / "laptop" / "root"
    skip = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "*.egg-info")
    shutil.copytree(PROJECT, home / "segsearch", ignore=skip)
    shutil.rmtree(home / "segsearch" / "runs", ignore_errors=True)
    config = variant(
        "local", head_ip=lab.address("head"), worker_ips=[lab.address("w1"), lab.address("w2")]
    )
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    (home / "segsearch" / "cluster.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (home / "mine" / "mylab").mkdir(parents=True)
    (home / "mine" / "mylab" / "__init__.py").write_text("")
    (home / "mine" / "mylab" / "spaces.py").write_text(SPACE)
    shutil.copy(PROJECT / "tests" / "tiny_space.py", home / "mine" / "mylab")
    (home / "mine" / "mylab" / "losses.py").write_text(LOSSES)
    write_blocks(home / "photos", count=16, side_px=64)
    put = (
        "from pathlib import Path; from search.runs.storage import Location; "
        f"Location.parse('{STORAGE}/photos').put(Path('photos'))"
    )
    lab.run("laptop", f'PYTHONPATH=segsearch python -c "{put}"')


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    lab.run("laptop", "cd segsearch && ray up -y cluster.yaml", timeout_s=300)
    wait_for(lambda: "/2.0 GPU" in ray_status(lab), 180, "2 GPUs")
    return lab


def ray_status(lab: Lab) -> str:
    """What ``ray status`` prints."""
    return fetched(lab, "head", f"{DASHBOARD}/api/cluster_status?format=1")


def fetched(lab: Lab, name: str, url: str, *, check: bool = False) -> str:
    """What a machine gets from an address; a command of Ray's would take a core for seconds."""
    get = f"from urllib.request import urlopen; print(urlopen('{url}').read().decode())"
    return lab.run(name, f'python -S -c "{get}"', check=check)


def wait_for(condition, timeout_s: float, what: str) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(1)


SEARCH = (
    "python -m search.run --address auto --tracking-uri http://127.0.0.1:5000 "
    f"--data {STORAGE}/photos --out {STORAGE}/runs --name lab --space mylab.spaces:space "
    f"--trials {TRIALS} --max-epochs {EPOCHS} --grace-epochs 1 --gpus-per-trial 0.5"
)


def submit(lab: Lab, command: str) -> str:
    """What docs/how-to/cluster.md says: through the tunnel that ``ray dashboard`` makes."""
    submission = f"ray job submit --no-wait --address {DASHBOARD} --working-dir . -- {command}"
    out = lab.run("laptop", f"cd mine && {submission}", timeout_s=180)
    return re.findall(r"raysubmit_\w+", out)[0]


def study_of(lab: Lab, folder: Path) -> optuna.Study:
    fetch = (
        "from pathlib import Path; from search.runs.storage import Location; "
        f"Location.parse('{STORAGE}/runs/lab').fetch(Path('fetched'), ['study.journal'])"
    )
    lab.run("laptop", f'PYTHONPATH=segsearch python -c "{fetch}"')
    journal = folder / f"study-{time.monotonic_ns()}.journal"
    shutil.copy(lab.folder / "laptop/root/fetched/study.journal", journal)
    return optuna.load_study(
        study_name="lab", storage=JournalStorage(JournalFileBackend(str(journal)))
    )


def test_a_search_survives_its_cluster(cluster: Lab, tmp_path: Path) -> None:
    lab = cluster
    tunnel = subprocess.Popen(
        lab.command("laptop", "cd segsearch && ray dashboard cluster.yaml"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: "8265" in lab.run("laptop", "ss -ltn"), 120, "the tunnel to the dashboard")
    # A folder of the head's own can't be shared: that is said at the start.
    alone = submit(lab, SEARCH.replace(f"--out {STORAGE}/runs", "--out /root/runs"))
    wait_for(lambda: job_status(lab, alone) == "FAILED", 240, "the refusal of unshared storage")
    log = lab.run("laptop", f"ray job logs --address {DASHBOARD} {alone}")
    assert "--out /root/runs/lab: 2 of 3 nodes don't see it (10.77.0.12, 10.77.0.13)" in log, log

    job = submit(lab, SEARCH)
    # All slots are used: 2 GPUs, two trials on each.
    wait_for(lambda: "2.0/2.0 GPU" in ray_status(lab), 240, "all GPUs in use")
    wait_for(lambda: scored(lab) >= 4, 240, "first epochs")
    assert len([p for p in lab.processes("w1") if "ray::" in p and "ImplicitFunc" in p]) == 2

    lab.kill("w1")
    lab.boot("w1", empty=True)
    before = scored(lab)
    wait_for(lambda: scored(lab) > before, 180, "trials go on elsewhere")

    # The search's own process is killed; the run goes on from the bucket.
    lab.run("head", "pkill -9 -f '[s]earch.run --address'")
    wait_for(lambda: job_status(lab, job) == "FAILED", 180, "the job's end")
    again = submit(lab, f"python -m search.run --resume {STORAGE}/runs/lab")
    wait_for(lambda: "2.0/2.0 GPU" in ray_status(lab), 240, "the new worker is used")
    wait_for(lambda: job_status(lab, again) != "", 420, "the resumed search's end")
    log = lab.run("laptop", f"ray job logs --address {DASHBOARD} {again}")
    assert job_status(lab, again) == "SUCCEEDED", log

    check_study(study_of(lab, tmp_path))
    check_mlflow(lab)
    assert "images that nothing before has seen" in log
    check_bundle(lab)

    tunnel.terminate()
    lab.run("laptop", "cd segsearch && ray down -y cluster.yaml", timeout_s=120)
    for name in ("head", "w1", "w2"):
        wait_for(lambda name=name: not left_on(lab, name), 180, f"nothing runs on {name}")


def job_status(lab: Lab, job: str) -> str:
    """Empty while it runs."""
    said = fetched(lab, "laptop", f"{DASHBOARD}/api/jobs/{job}")
    found = re.search(r'"status": "(SUCCEEDED|FAILED|STOPPED)"', said)
    return found[1] if found else ""


def scored(lab: Lab) -> int:
    """Epochs in all trials, as far as checkpoints in the bucket tell."""
    bucket, _, prefix = STORAGE.removeprefix("s3://").partition("/")
    query = f"list-type=2&prefix={prefix}/runs/lab/trials/"
    said = fetched(lab, "store", f"http://127.0.0.1:9000/{bucket}?{query}", check=True)
    return said.count("checkpoint.json</Key>")


def check_study(study: optuna.Study) -> None:
    trials = study.get_trials()
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        assert epochs == list(range(1, len(epochs) + 1)), f"trial {trial.number}: {epochs}"


def check_mlflow(lab: Lab) -> None:
    script = """
import json
from mlflow.tracking import MlflowClient
client = MlflowClient('http://127.0.0.1:5000')
experiment = client.get_experiment_by_name('segsearch').experiment_id
runs = [r for r in client.search_runs([experiment]) if 'segsearch.trial' in r.data.tags]
print(json.dumps([[r.data.tags['segsearch.trial'].rpartition('/')[2], r.info.status,
    [m.step for m in client.get_metric_history(r.info.run_id, 'val/dice')],
    [a.path for a in client.list_artifacts(r.info.run_id)]] for r in runs]))
"""
    (lab.folder / "head/root/look.py").write_text(script)
    runs = json.loads(lab.run("head", "python look.py").splitlines()[-1])
    assert sorted(int(number) for number, *_ in runs) == list(range(TRIALS))
    assert {status for _, status, *_ in runs} == {"FINISHED"}
    for number, _, steps, _ in runs:
        assert sorted(steps) == list(range(1, len(steps) + 1)), f"trial {number}: {steps}"
    assert any("checkpoint" in artifacts for *_, artifacts in runs)


def check_bundle(lab: Lab) -> None:
    fetch = (
        "from pathlib import Path; from search.runs.storage import Location; "
        f"Location.parse('{STORAGE}/runs/lab/ensemble').fetch(Path('ensemble'))"
    )
    lab.run("laptop", f'PYTHONPATH=segsearch python -c "{fetch}"')
    predict = "python -m search.predict ensemble photos/images --out masks --allow-plugins"
    lab.run("laptop", f"PYTHONPATH=segsearch:mine {predict}", timeout_s=120)
    assert len(list((lab.folder / "laptop/root/masks").rglob("*.png"))) == 16


def left_on(lab: Lab, name: str) -> list[str]:
    """Processes of Ray, MLflow and ours."""
    words = ("ray", "mlflow", "search.run")
    lines = [line for line in lab.processes(name) if "ps -eo" not in line]
    return [line for line in lines if any(word in line.lower() for word in words)]
