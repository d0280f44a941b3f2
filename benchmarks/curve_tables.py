"""Learning curves to judge a search on: synthetic ones, and those of real trainings.

Trainings of segmentation networks are in ``benchmarks/curves`` (``benchmarks.real_curves``). Others
are found in a folder (``--curves DIR``), and are no part of this repository: TaskSet
(tables of 1,000 trainings of a text RNN each, Apache-2.0; a configuration has the curve of the
nearest one) and LCBench (34 tabular tasks with their training times, as the surrogate of YAHPO
Gym, Apache-2.0; it needs onnxruntime). Scores are higher if better, 1 is perfect.
"""

import functools
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from optuna.trial import BaseTrial

from search.forecasting.kernel import Array
from search.forecasting.proposals import Proposal, draw, mutate

Params = Mapping[str, Any]

OWN_CURVES = Path(__file__).parent / "curves"
"""Tables of ``benchmarks.real_curves``."""


class Training(NamedTuple):
    """What becomes of a configuration, if it is trained to the end."""

    scores_T: Array
    """Without the noise of validation."""
    epoch_seconds: float


class Table(Protocol):
    """Configurations and their trainings."""

    family: str
    name: str
    max_epochs: int
    noise: float
    """Standard deviation of an epoch's noise."""
    seed_noise: float
    """Standard deviation of what a training's seed adds to all its epochs."""

    def space(self, trial: BaseTrial) -> object:
        """Ask a trial for a configuration."""

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """What becomes of them."""


def best_score(table: Table, rng: np.random.Generator) -> float:
    """The best attainable one, by random search and hill climbing."""
    pool = [draw(table.space, rng) for _ in range(1200)]
    scored: list[tuple[float, int]] = []
    known: list[Proposal] = []
    for _ in range(10):
        scores = [float(t.scores_T.max()) for t in table.trainings([p.params for p in pool])]
        scored += zip(scores, range(len(known), len(known) + len(pool)), strict=True)
        known += pool
        scored = sorted(scored, reverse=True)[:20]
        pool = [mutate(table.space, rng, known[i]) for _, i in scored for _ in range(5)]
    return scored[0][0]


def mean_epoch_seconds(table: Table, rng: np.random.Generator) -> float:
    """Mean of random configurations."""
    drawn = [draw(table.space, rng).params for _ in range(100)]
    return float(np.mean([training.epoch_seconds for training in table.trainings(drawn)]))


class Synthetic:
    """A conditional space like ``spaces.aerial``, with one of five shapes of curves.

    What trains slowly tends to end well: transformers, the Lovász loss, strong oversampling. The
    rates and strengths that suit are others in each table.
    """

    family = "aerial-like"
    max_epochs = 50
    noise, seed_noise = 0.004, 0.004

    SHAPES = ("hyperbola", "exponential", "power", "sigmoid", "overfitting")
    NETWORKS: Mapping[str, tuple[float, float, float]] = {
        "unet": (0.56, 0.5, -3.0), "unetplusplus": (0.58, 0.6, -3.0), "fpn": (0.59, 0.5, -3.1),
        "deeplabv3plus": (0.61, 0.7, -3.2), "pspnet": (0.57, 0.5, -2.8),
        "segformer": (0.65, 1.5, -4.0),
    }  # fmt: skip
    """Score, half-life in epochs, and log₁₀ of the learning rate that suits."""
    ENCODERS: Mapping[str, Mapping[str, float]] = {
        "encoder": {"resnet34": -0.01, "resnet101": 0.02, "efficientnet-b3": 0.03,
                    "resnet18": -0.02},
        "segformer_encoder": {"mit_b0": -0.03, "mit_b1": -0.01, "mit_b3": 0.03},
    }  # fmt: skip

    def __init__(self, shape: str) -> None:
        self.name = self._shape = shape
        rng = np.random.default_rng(self.SHAPES.index(shape))
        optima = ("lr", "decay", "rare", "strength", "scale", "factor")
        self._shift = dict(zip(optima, rng.normal(size=6).tolist(), strict=True))

    def space(self, trial: BaseTrial) -> object:
        """As in ``spaces.aerial``."""
        architecture = trial.suggest_categorical("architecture", list(self.NETWORKS))
        prefix = "segformer_encoder" if architecture == "segformer" else "encoder"
        trial.suggest_categorical(prefix, list(self.ENCODERS[prefix]))
        loss = trial.suggest_categorical("loss", ["ce", "focal", "dice_ce", "tversky", "lovasz"])
        match loss:
            case "focal":
                trial.suggest_float("gamma", 0.5, 5.0)
            case "dice_ce" | "tversky":
                trial.suggest_float("region_share", 0.1, 0.9)
        trial.suggest_float("lr", 3e-5, 3e-2, log=True)
        trial.suggest_float("encoder_lr_factor", 0.05, 1.0, log=True)
        trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
        trial.suggest_categorical("schedule", ["cosine", "poly", "plateau"])
        trial.suggest_float("warmup_epochs", 0.0, 2.0, step=0.5)
        trial.suggest_categorical("batch_size", [4, 8, 16])
        trial.suggest_float("scale", 0.25, 1.0, log=True)
        trial.suggest_float("augment_strength", 0.0, 1.0)
        trial.suggest_float("oversample_ratio", 1.0, 8.0, log=True)
        trial.suggest_float("rare_crop_prob", 0.0, 0.5)
        return None

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """What becomes of them."""
        return [self._training(params) for params in configurations]

    def _training(self, params: Params) -> Training:
        shift = self._shift
        score, half, log_lr = self.NETWORKS[params["architecture"]]
        encoders = "segformer_encoder" if "segformer_encoder" in params else "encoder"
        gain, slowness = self._loss(params)
        off = math.log10(params["lr"]) - log_lr - 0.3 * shift["lr"]
        final = (
            score + self.ENCODERS[encoders][params[encoders]] + gain
            - min(0.06 * off**2, 0.4)
            - 0.004 * (math.log10(params["weight_decay"]) + 3 - shift["decay"]) ** 2
            - 0.01 * (math.log10(params["encoder_lr_factor"]) + 0.5 - 0.2 * shift["factor"]) ** 2
            - 0.03 * (2 * params["rare_crop_prob"] - 0.5 - 0.2 * shift["rare"]) ** 2
            - 0.03 * (math.log(params["oversample_ratio"]) / 2 - 0.5) ** 2
            - 0.05 * (params["augment_strength"] - 0.5 - 0.2 * shift["strength"]) ** 2
            - 0.03 * (math.log2(params["scale"]) + 1 - 0.5 * shift["scale"]) ** 2
            + {"cosine": 0.01, "poly": 0.008, "plateau": 0.0}[params["schedule"]]
        )  # fmt: skip
        slowness *= 10 ** (0.3 * max(-off, 0)) * (0.9 + 0.05 * params["oversample_ratio"])
        slowness *= 0.8 + 0.4 * params["augment_strength"]
        seconds = (0.7 + half / 2) * (0.5 + params["scale"]) * (1 + 1 / params["batch_size"])
        return Training(self._curve(max(final, 0.06), half * slowness, params), 60 * seconds)

    @staticmethod
    def _loss(params: Params) -> tuple[float, float]:
        """Gain in final score over cross entropy, and factor on the time that learning takes."""
        match params["loss"]:
            case "focal":
                return 0.015 - 0.004 * (params["gamma"] - 2) ** 2, 1.1
            case "dice_ce":
                return 0.035 - 0.1 * (params["region_share"] - 0.6) ** 2, 1.2
            case "tversky":
                return 0.03 - 0.1 * (params["region_share"] - 0.7) ** 2, 1.3
            case "lovasz":
                return 0.045, 1.6
            case _:
                return 0.0, 1.0

    def _curve(self, final: float, half: float, params: Params) -> Array:
        t = np.arange(1.0, self.max_epochs + 1)
        match self._shape:
            case "hyperbola":
                return final * t / (t + half)
            case "exponential":
                return final * (1 - 0.6 * np.exp(-t / (4 * half)))
            case "power":
                return final - 0.3 * t ** (-0.8 / half**0.5)
            case "sigmoid":  # learning sets in late: curves cross
                return final * (0.3 + 0.7 / (1 + (3 * half / t) ** 1.5))
            case _:  # too little augmentation and weight decay overfits
                strength = params["augment_strength"] + (math.log10(params["weight_decay"]) + 6) / 5
                fall = 0.002 * max(1.2 - strength, 0) * np.maximum(t - 8 * half, 0)
                return final * t / (t + half) - fall


class TaskSet:
    """1,000 trainings by a grown-up Adam, of a recurrent network that classifies text."""

    family = "TaskSet"
    max_epochs = 51
    noise, seed_noise = 0.002, 0.002
    SETTINGS = ("learning_rate", "beta1", "beta2", "epsilon", "l1", "l2", "linear_decay",
                "exponential_decay")  # fmt: skip

    def __init__(self, path: Path) -> None:
        self.name = path.name.removeprefix("taskset_").removesuffix(".json.gz")
        rows = json.loads(gzip.decompress(path.read_bytes()))
        self._x_ND = np.log10([self._distances(row["hp"]) for row in rows])
        losses_NT = np.array([row["valid"]["loss"] for row in rows], dtype=float)
        # The loss of guessing is 0, no loss is 1.
        guessing = float(np.nanmedian(losses_NT[:, 0]))
        self._scores_NT = (
            1 - np.clip(np.nan_to_num(losses_NT, nan=guessing), 0, guessing) / guessing
        )
        self._low_D, self._high_D = self._x_ND.min(axis=0), self._x_ND.max(axis=0)

    def _distances(self, settings: Params) -> list[float]:
        """A momentum counts by its distance from 1."""
        return [
            max(1 - settings[name], 1e-7) if name.startswith("beta") else settings[name]
            for name in self.SETTINGS
        ]

    def space(self, trial: BaseTrial) -> object:
        """The table's ranges; ``beta1`` is 1 − β₁."""
        for name, low, high in zip(self.SETTINGS, self._low_D, self._high_D, strict=True):
            trial.suggest_float(name, 10**low, 10**high, log=True)
        return None

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """Those of the nearest configurations."""
        x_MD = np.log10([[params[name] for name in self.SETTINGS] for params in configurations])
        width_D = self._high_D - self._low_D
        found = []
        for x_D in x_MD:
            nearest = np.argmin((((self._x_ND - x_D) / width_D) ** 2).sum(axis=1))
            found.append(Training(self._scores_NT[nearest], 60.0))
        return found


@functools.cache
def _session(folder: Path) -> Any:
    """The surrogate, one for all tasks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep the memory of the largest call
    return onnxruntime.InferenceSession(str(folder / "lcbench_model.onnx"), options)


class LCBench:
    """A funnel-shaped network on one of 34 tabular tasks, by a surrogate, with training times."""

    family = "LCBench"
    max_epochs = 51
    noise, seed_noise = 0.004, 0.004

    def __init__(self, folder: Path, task: str) -> None:
        self.name, self._folder = task, folder
        codes = json.loads((folder / "lcbench_encoding.json").read_text())
        self._task = codes["OpenML_task_id"][task]
        space = json.loads((folder / "lcbench_config_space.json").read_text())
        self._settings = [
            one for one in space["hyperparameters"]
            if one["name"] not in ("OpenML_task_id", "epoch")
        ]  # fmt: skip

    def space(self, trial: BaseTrial) -> object:
        """The ranges of LCBench."""
        for one in self._settings:
            ask = trial.suggest_int if one["type"] == "uniform_int" else trial.suggest_float
            ask(one["name"], one["lower"], one["upper"], log=one["log"])
        return None

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """What the surrogate says of them."""
        names = ["batch_size", "learning_rate", "momentum", "weight_decay", "num_layers",
                 "max_units", "max_dropout"]  # fmt: skip
        x_ND = np.array([[params[name] for name in names] for params in configurations])
        epochs_T = np.arange(2, self.max_epochs + 2)  # its first one comes before any training
        rows = np.column_stack(
            [np.tile(epochs_T, len(x_ND)), np.repeat(x_ND, self.max_epochs, axis=0)]
        ).astype(np.float32)
        task = np.full((len(rows), 1), self._task, dtype=np.int32)
        (out,) = _session(self._folder).run(None, {"x_cat": task, "x_cont": rows})
        out_NTK = out.reshape(len(x_ND), self.max_epochs, -1).astype(float)
        seconds_N = np.maximum(out_NTK[:, -1, 0] / self.max_epochs, 1e-2)
        return [
            Training(out_TK[:, 3], float(seconds))
            for out_TK, seconds in zip(out_NTK, seconds_N, strict=True)
        ]


GRID: Mapping[str, Sequence[Any]] = {
    "architecture": ("fpn", "linknet", "pspnet"),
    "loss": ("ce", "dice_ce"),
    "lr": (3e-4, 1e-3, 3e-3),
    "scale": (None, 0.08, 0.2),
}
"""The configurations of ``benchmarks.real_curves``; without ``scale`` a photograph is squeezed."""


class Segmentation:
    """Trainings of segmentation networks on photographs, by ``benchmarks.real_curves``.

    Between the grid's learning rates and scales curves are interpolated. ``scores_T`` has the noise
    of the grid's validations, which is the same for all methods; a trial's own comes on top.
    """

    family = "segmentation"
    noise, seed_noise = 0.005, 0.01

    def __init__(self, path: Path) -> None:
        self.name = path.name.partition(".")[0]
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        self._rows = {tuple(row["params"][name] for name in GRID): row for row in rows}
        self.max_epochs = len(rows[0]["val"])

    def space(self, trial: BaseTrial) -> object:
        """The grid's ranges."""
        self.ask_of_network(trial)
        if trial.suggest_categorical("look", ["whole", "windows"]) == "windows":
            trial.suggest_float("scale", GRID["scale"][1], GRID["scale"][-1], log=True)
        return None

    @staticmethod
    def ask_of_network(trial: BaseTrial) -> None:
        """All but how the network looks at photographs."""
        trial.suggest_categorical("architecture", list(GRID["architecture"]))
        trial.suggest_categorical("loss", list(GRID["loss"]))
        trial.suggest_float("lr", GRID["lr"][0], GRID["lr"][-1], log=True)

    def trainings(self, configurations: Sequence[Params]) -> list[Training]:
        """Means of those around, the nearer the heavier."""
        return [
            Training(self.mean_of(params, "val"), float(self.mean_of(params, "epoch_s")))
            for params in configurations
        ]

    def mean_of(self, params: Params, column: str) -> Array:
        """Of a column of the table: "val" and "test" (T), or "epoch_s"."""
        scales: dict[float | None, float] = {None: 1.0}
        if "scale" in params:
            scales = _neighbours(params["scale"], GRID["scale"][1:])
        mean = np.zeros(())
        for lr, share in _neighbours(params["lr"], GRID["lr"]).items():
            for scale, part in scales.items():
                row = self._rows[params["architecture"], params["loss"], lr, scale]
                mean = mean + share * part * np.array(row[column])
        return mean


def _neighbours(value: float, grid: Sequence[float]) -> dict[float | None, float]:
    """The values of a grid around one, with shares that are linear in logarithms."""
    place = float(np.interp(math.log(value), np.log(grid), range(len(grid))))
    low = min(int(place), len(grid) - 2)
    return {grid[low]: 1 + low - place, grid[low + 1]: place - low}


def load_tables(curves: Path | None, lcbench_tasks: Sequence[str]) -> dict[str, Table]:
    """Synthetic ones, our own trainings, and those of the folder, by name."""
    tables: list[Table] = [Synthetic(shape) for shape in Synthetic.SHAPES]
    tables += [Segmentation(path) for path in sorted(OWN_CURVES.glob("*.jsonl"))]
    if curves is not None:
        tables += [LCBench(curves, task) for task in lcbench_tasks]
        tables += [TaskSet(path) for path in sorted(curves.glob("taskset_*.json.gz"))]
    return {table.name: table for table in tables}
