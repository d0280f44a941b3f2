"""The shipped slurm.sh under Debian's Slurm, on machines made of one: two nodes, a controller."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import write_blocks
from tests.lab import slurm
from tests.lab.machines import Lab
from tests.lab.slurm import CONTROLLER
from tests.machinery import wait_until

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(slurm.why_not() is not None, reason=str(slurm.why_not())),
]

PROJECT = Path(__file__).parents[1]
SLOW = "/home/me/slow"
"""While this file is there, trials need seconds for an epoch."""
SPACE = f"""
import time
from pathlib import Path

from tests.tiny_space import aerial_and
from tests.tiny_space import space as tiny

def space(trial):
    return tiny(trial).model_copy(update={{"augmentation": "mine:slow"}})

def slow(strength, height_px, width_px):
    def wait(image, **_):
        time.sleep(0.5 if Path("{SLOW}").exists() else 0)
        return image
    return aerial_and(wait, strength, height_px, width_px)
"""
SUBMIT = (
    # What differs between clusters, and a minute instead of three.
    "sbatch --parsable --job-name=storm --nodes=1-2 --gpus-per-node=2 --cpus-per-task=2 --mem=3G "
    "--time=20 --signal=B:USR1@60 ../segsearch/slurm.sh "
    "--data photos --space mine --trials 6 --max-epochs 27 --grace-epochs 1"
)
STANDS_IN_FOR_RAY = """#!/bin/bash
# ray symmetric-run --address HEAD:PORT … -- COMMAND…
head=${3%:*}; while [ "$1" != -- ]; do shift; done; shift
echo "$(hostname): a token of ${#RAY_AUTH_TOKEN} digits"
if [ "$(hostname)" = "$head" ]; then
  touch /home/me/ray; "$@"; code=$?; rm /home/me/ray
  exit $code
fi
until [ -e /home/me/ray ]; do sleep 0.2; done; while [ -e /home/me/ray ]; do sleep 0.2; done
"""
STANDS_IN_FOR_PYTHON = """#!/bin/bash
# python -m search.run …, which ends well where it is told to.
[ "$1" = -c ] && exec python3 "$@"
echo "$(hostname): $*"
mkdir -p runs/storm && touch runs/storm/run.yaml
trap 'echo "stopped gently"; exit 130' TERM
until [ -e /home/me/finish ]; do sleep 0.2 & wait $!; done
exit "$(cat /home/me/finish)"
"""
EVERYWHERE = {
    **slurm.ENVIRONMENT, "PYTHONPATH": "/home/segsearch", "SEGSEARCH_PRETEND_GPUS": "1",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Slurm runs, and /home has a checkout of segsearch, and a folder of the user's."""
    home = tmp_path / "home"
    for part in ("search", "segcore", "spaces", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / part, home / "segsearch" / part, ignore=ignore)
    shutil.copy(PROJECT / "slurm.sh", home / "segsearch")
    write_blocks(home / "me" / "photos")
    (home / "me" / "mine.py").write_text(SPACE)
    (home / "me" / Path(SLOW).name).touch()
    names = (CONTROLLER, "n1", "n2")
    with Lab(tmp_path / "machines", names, {"": EVERYWHERE}, home) as lab:
        for name in names:
            lab.boot(name)
        slurm.start(lab)
        yield lab


def submit(lab: Lab, *options: str) -> str:
    """Submit slurm.sh with stand-ins for Ray and the search; the job's number."""
    words = "--parsable --job-name=storm --gpus-per-node=2 --cpus-per-task=2 --mem=3G"
    command = f"sbatch {words} {' '.join(options)} ../segsearch/slurm.sh --data photos"
    return lab.run(CONTROLLER, f"cd /home/me && PATH=/home/bin:$PATH {command}").strip()


def log_of(lab: Lab, number: str) -> str:
    file = home_of(lab) / f"storm-{number}.log"
    return file.read_text() if file.exists() else ""


def ended(lab: Lab, number: str) -> dict[str, str]:
    """A job, after its end."""
    wait_until(lambda: job(lab, number)["JobState"] not in ("PENDING", "RUNNING"), timeout_s=60)
    wait_until(lambda: not lab.run(CONTROLLER, "squeue --noheader").strip(), timeout_s=60)
    return job(lab, number)


@pytest.mark.lab
def test_a_job_queues_itself_again_only_when_its_time_is_up(lab: Lab) -> None:
    """The script itself; what follows has Ray and a search."""
    assert lab.home is not None
    (lab.home / "bin").mkdir()
    for name, script in (("ray", STANDS_IN_FOR_RAY), ("python", STANDS_IN_FOR_PYTHON)):
        (lab.home / "bin" / name).write_text(script)
        (lab.home / "bin" / name).chmod(0o755)

    first = submit(lab, "--nodes=1-2", "--time=1", "--signal=B:USR1@10")
    wait_until(lambda: "-m search.run" in log_of(lab, first), timeout_s=60)
    lab.run(CONTROLLER, "scontrol update NodeName=n2 State=DRAIN Reason=repair")
    wait_until(lambda: "--resume" in log_of(lab, first), timeout_s=180)
    (home_of(lab) / "finish").write_text("0")
    end = ended(lab, first)
    assert (end["JobState"], end["Restarts"], end["NodeList"]) == ("COMPLETED", "1", "n1")
    lines = log_of(lab, first).splitlines()
    assert {"n1: a token of 64 digits", "n2: a token of 64 digits", "stopped gently"} < {*lines}
    begun, resumed = (line for line in lines if "search.run" in line)
    common = "--data photos"
    assert begun == f"n1: -m search.run --out runs --name storm {common} --address n1:6379"
    assert resumed == f"n1: -m search.run --resume runs/storm {common} --address local"

    (home_of(lab) / "finish").write_text("2")  # the search's error is the job's
    second = ended(lab, submit(lab, "--time=20"))
    assert (second["JobState"], second["Restarts"], second["ExitCode"]) == ("FAILED", "0", "2:0")
    (home_of(lab) / "finish").unlink()
    third = submit(lab, "--time=20")
    wait_until(lambda: "-m search.run" in log_of(lab, third), timeout_s=60)
    lab.run(CONTROLLER, f"scancel {third}")
    cancelled = ended(lab, third)
    assert (cancelled["JobState"], cancelled["Restarts"]) == ("CANCELLED", "0")
    (lab.home / "bin" / "ray").write_text("#!/bin/bash\n")  # Ray's own way when it doesn't start
    lab.run(CONTROLLER, "scontrol update NodeName=n2 State=RESUME")
    fourth = submit(lab, "--nodes=2", "--time=20")
    assert ended(lab, fourth)["ExitCode"] == "1:0"
    assert "error: Ray didn't start, so the search didn't either" in log_of(lab, fourth)


def values(lab: Lab) -> dict[int, dict[int, float]]:
    """What the study knows of each trial, by epoch."""
    journal = home_of(lab) / "runs/storm/study.journal"
    if not journal.exists():
        return {}
    study = optuna.load_study(
        study_name="storm", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    return {trial.number: trial.intermediate_values for trial in study.get_trials()}


def home_of(lab: Lab) -> Path:
    assert lab.home is not None
    return lab.home / "me"


def trials_on(lab: Lab, node: str) -> int:
    return sum("ray::" in line and "ImplicitFunc" in line for line in lab.processes(node))


def job(lab: Lab, number: str) -> dict[str, str]:
    shown = lab.run(CONTROLLER, f"scontrol show job {number}")
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


@pytest.mark.slow  # It takes about five minutes; seen to pass on 27 November 2026.
def test_a_search_outlives_its_jobs_time_and_one_of_its_nodes(lab: Lab) -> None:
    number = lab.run(CONTROLLER, f"cd /home/me && {SUBMIT}").strip()

    def trains_on_both() -> bool:
        assert job(lab, number)["JobState"] in ("PENDING", "RUNNING"), log_of(lab, number)
        return bool(values(lab).get(0)) and all(trials_on(lab, node) for node in ("n1", "n2"))

    wait_until(trains_on_both, timeout_s=600)
    stranger = "RAY_AUTH_MODE=disabled timeout 20 ray status --address=n1:6379"
    assert "Resources" not in lab.run(CONTROLLER, stranger, check=False)

    # An administrator takes a node away; what runs there may end. Then time is up.
    lab.run(CONTROLLER, "scontrol update NodeName=n2 State=DRAIN Reason=repair")
    seen = len(values(lab)[0])
    wait_until(lambda: len(values(lab)[0]) > seen, timeout_s=180)
    assert trials_on(lab, "n2")
    minutes = int(job(lab, number)["RunTime"].split(":")[1])
    lab.run(CONTROLLER, f"scontrol update JobId={number} TimeLimit={minutes + 2}")
    wait_until(lambda: job(lab, number)["Restarts"] == "1", timeout_s=300)
    assert "Interrupted; nothing is lost." in log_of(lab, number)
    before = values(lab)
    assert all(len(epochs) < 27 for epochs in before.values())

    (home_of(lab) / Path(SLOW).name).unlink()
    lab.run(CONTROLLER, f"scontrol update JobId={number} TimeLimit=20")
    wait_until(lambda: job(lab, number)["JobState"] not in ("PENDING", "RUNNING"), timeout_s=600)
    end = job(lab, number)
    assert (end["JobState"], end["NodeList"]) == ("COMPLETED", "n1"), log_of(lab, number)
    after = values(lab)
    assert len(after) == 6 and max(map(len, after.values())) == 27
    for trial, epochs in before.items():
        assert epochs.items() <= after[trial].items(), "trials go on, and don't begin anew"
    assert (home_of(lab) / "runs/storm/ensemble/bundle.json").exists()
    assert (home_of(lab) / "runs/storm/report.html").exists()
    for node in ("n1", "n2"):
        assert not any("ray" in line for line in lab.processes(node))
