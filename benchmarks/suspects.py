"""How many planted errors of labels stand first in the list of ``search.suspects``.

    python -m benchmarks.suspects --weights FILE --out DIR

Errors are planted into the labels of the drawn scenes (``benchmarks.planting``), in the
training photographs as well as in the others, as a person would have made them everywhere. One
network is trained on them, and judges the photographs of validation and test. A suspect is a hit
where at least half of its pixels have a label that planting changed.

--out keeps the planted scenes and the network: a second call goes on with the training, or only
judges. --planting 1 plants other errors in the photographs that are judged; the network stays the
same, so that what was chosen by the first errors can be checked on others.

Predicted before the first run: 0.85 of the first 20 and 0.65 of the first 50 are planted. Among
these 50 is half of what was removed, added or swapped, and hardly anything that was shifted,
because a shift leaves thin crescents.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from benchmarks.planting import KINDS, plant_all
from segcore.config import TrialConfig
from segcore.data.prepared import PreparedData
from segcore.data.preparing import prepare_data
from segcore.predicting.suspects import Judge, Suspect, find_suspects
from segcore.scenes import default_scenes
from segcore.training.fit import fit

FIRST = (20, 50, 100)
STEPS_PER_EPOCH = 45
HIT = 0.5


@dataclass(frozen=True)
class Options:
    """What to plant, and how long to train."""

    weights: Path  # State dict of the encoder tu-tf_efficientnet_lite0.
    out: Path  # Folder for the planted scenes and the network.
    per_photo: int = 2  # Errors in each photograph.
    epochs: int = 9  # Of 45 steps each.
    planting: int = 0  # Seed of the errors; the network is trained on those of 0.
    edge_px: int = 2  # As of search.suspects.
    threads: int = 1  # Of torch.


def main(options: Options) -> None:
    """Plant, train, judge, and print what stands first."""
    torch.set_num_threads(options.threads)
    network, config = options.out / "network", config_of(options)
    trained = planted_data(options, config, 0)
    train(config, trained, network)
    data = planted_data(options, config, options.planting)
    held_out = {
        trained.photos[photo] for split in ("val", "test") for photo in trained.of_split(split)
    }
    photos = [photo for photo, name in enumerate(data.photos) if name in held_out]
    with tempfile.TemporaryDirectory(dir=options.out) as maps:
        suspects = find_suspects(
            [Judge(((network, 1.0),), tuple(photos))], data, Path(maps), torch.device("cpu"),
            limit=1000, edge_px=options.edge_px,
        )  # fmt: skip
    planted = Planted.read(
        scenes_of(options, options.planting), [data.photos[photo] for photo in photos]
    )
    print_table(suspects, [planted.error_at(suspect, data) for suspect in suspects], planted, data)


def scenes_of(options: Options, planting: int) -> Path:
    """The folder of the scenes with these errors."""
    return options.out / f"scenes-{planting}"


def planted_data(options: Options, config: TrialConfig, planting: int) -> PreparedData:
    """The scenes with errors, planted if they aren't yet."""
    folder = scenes_of(options, planting)
    if not folder.exists():
        plant_all(default_scenes(), folder, per_photo=options.per_photo, seed=planting)
    return prepare_data(folder, [config.view], progress=False)


def config_of(options: Options) -> TrialConfig:
    """What did best on the drawn scenes (benchmarks/README.md, defaults), with a slim decoder."""
    slim: dict[str, Any] = {
        "decoder_pyramid_channels": 64, "decoder_segmentation_channels": 64,
    }  # fmt: skip
    return TrialConfig(
        height_px=160, width_px=160, scale=1.0, architecture="fpn",
        encoder="tu-tf_efficientnet_lite0", encoder_weights=str(options.weights),
        model_kwargs=slim, loss="dice_ce", lr=3e-3, clip_norm=1.0, rare_crop_prob=0.4,
        warmup_epochs=options.epochs / 10, max_epochs=options.epochs,
        epoch_mpx=STEPS_PER_EPOCH * 8 * 160 * 160 / 1e6,
    )  # fmt: skip


def train(config: TrialConfig, data: PreparedData, network: Path) -> None:
    """Train, or go on, or do nothing where that is done."""
    begun = network if (network / "checkpoint.json").exists() else None
    for epoch in fit(config, data, resume_from=begun):
        epoch.save(network)
        accuracy = epoch.scores.metric("pixel_accuracy")
        print(f"epoch {epoch.epoch}: dice {epoch.scores.dice:.4f}, accuracy {accuracy:.4f}")


@dataclass(frozen=True)
class Planted:
    """The errors in some photographs."""

    folder: Path
    kinds: dict[str, list[str]]
    """Of each photograph's errors, by its stem."""

    @classmethod
    def read(cls, scenes: Path, photos: Sequence[str]) -> "Planted":
        """What ``plant_all`` wrote of these photographs."""
        kinds = json.loads((scenes / "errors" / "kinds.json").read_text())
        stems = [Path(photo).stem for photo in photos]
        return cls(scenes / "errors", {stem: kinds[stem] for stem in stems})

    def error_at(self, suspect: Suspect, data: PreparedData) -> tuple[str, int] | None:
        """The photograph and number of the error that a suspect hits; None: it hits none."""
        stem, region = Path(data.photos[suspect.photo]).stem, suspect.region
        number_HW = np.array(Image.open(self.folder / f"{stem}.png"))
        number_N = number_HW[region.rows, region.columns][region.inside_HW]
        if (number_N > 0).mean() < HIT:
            return None
        return stem, int(np.bincount(number_N[number_N > 0]).argmax())

    def kind(self, error: tuple[str, int]) -> str:
        """Such as "removed"."""
        stem, number = error
        return self.kinds[stem][number - 1]


def print_table(
    suspects: Sequence[Suspect],
    hits: Sequence[tuple[str, int] | None],
    planted: Planted,
    data: PreparedData,
) -> None:
    """Print the share of hits among the first, and how many errors of each kind these are."""
    total = Counter(kind for kinds in planted.kinds.values() for kind in kinds)
    print(f"{len(planted.kinds)} photographs, {total.total()} errors, {len(suspects)} suspects")
    print(f"| first | planted | {' | '.join(f'{kind}, of {total[kind]}' for kind in KINDS)} |")
    print(f"| --- | --- |{' --- |' * len(KINDS)}")
    for count in FIRST:
        share = np.mean([hit is not None for hit in hits[:count]])
        found = Counter(planted.kind(error) for error in {hit for hit in hits[:count] if hit})
        print(f"| {count} | {share:.2f} | {' | '.join(str(found[kind]) for kind in KINDS)} |")
    names = data.class_names
    missed = Counter(
        f"{names[suspect.region.label]} → {names[suspect.region.named]}"
        for suspect, hit in zip(suspects[:50], hits, strict=False)
        if hit is None
    )
    print("not planted, of the first 50:", missed.most_common())


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.suspects"))
