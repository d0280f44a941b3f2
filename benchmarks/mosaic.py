"""python -m benchmarks.mosaic: time and peak memory of predicting a georeferenced mosaic.

A drawn mosaic of --side-px squared, a network of random weights, and `search.predict` in a process
of its own, as a user runs it. What a real network takes longer, it takes in computing.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.shutil
import torch
import tyro
from rasterio.windows import Window

from segcore.config import TrialConfig
from segcore.data.spec import distinct_colors
from segcore.networks.models import build_network
from segcore.predicting.ensemble import write_bundle
from segcore.training.checkpoint import CheckpointInfo, save_checkpoint

BLOCK_PX = 500


@dataclass(frozen=True)
class Options:
    """What to measure."""

    side_px: int = 20_000
    classes: int = 5
    window_px: int = 256
    scales: tuple[float, ...] = (0.25,)
    """One member for each; several read the mosaic several times."""
    plain: Literal["jpg", "png"] | None = None
    """Predict a file of this kind instead, which has no place on earth and is decoded whole."""
    folder: Path | None = None
    """Where the files go, 2 GB of them; default: a temporary folder."""


def main() -> None:
    """Make a mosaic and a bundle, predict, and print what it took."""
    options = tyro.cli(Options)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        mosaic = write_mosaic(folder / "mosaic.tif", options.side_px)
        bundle = write_random_bundle(folder / "bundle", options)
        photo = mosaic
        if options.plain is not None:
            photo = folder / f"mosaic.{options.plain}"
            driver = {"jpg": "JPEG", "png": "PNG"}[options.plain]
            rasterio.shutil.copy(mosaic, photo, driver=driver)
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "search.predict", bundle, photo, "--out", folder / "out"],
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        if status:
            sys.exit("the prediction failed")
        overviews: list[int] = []
        if options.plain is None:
            with rasterio.open(mosaic) as source, rasterio.open(folder / "out/mosaic.tif") as mask:
                assert (mask.shape, mask.transform) == (source.shape, source.transform)
                overviews = mask.overviews(1)
        print(
            f"{options.side_px}×{options.side_px} px, {options.classes} classes, windows "
            f"of {options.window_px} px at {' and '.join(map(str, options.scales))}: "
            f"{seconds:.0f} s, peak {usage.ru_maxrss / 1e6:.2f} GB, overviews {overviews}"
        )


def write_mosaic(path: Path, side_px: int) -> Path:
    """A GeoTIFF of coloured squares with noise."""
    rng = np.random.default_rng(0)
    noise_CHW = rng.integers(-20, 20, (3, BLOCK_PX, BLOCK_PX))
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=3, height=side_px, width=side_px,
        tiled=True, crs="EPSG:32615", transform=rasterio.Affine(0.1, 0, 3e5, 0, -0.1, 33e5),
    ) as raster:  # fmt: skip
        for top in range(0, side_px, BLOCK_PX):
            for left in range(0, side_px, BLOCK_PX):
                color_C = rng.integers(20, 235, 3)
                block_CHW = (color_C[:, None, None] + noise_CHW).astype(np.uint8)
                block_CHW = block_CHW[:, : side_px - top, : side_px - left]
                window = Window(left, top, block_CHW.shape[2], block_CHW.shape[1])
                raster.write(block_CHW, window=window)
    return path


def write_random_bundle(folder: Path, options: Options) -> Path:
    """Small members that know nothing."""
    members = []
    for number, scale in enumerate(options.scales):
        config = TrialConfig(
            height_px=options.window_px, width_px=options.window_px, scale=scale,
            architecture="scratch_unet", encoder=None,
            model_kwargs={"base_channels": 4, "depth": 2},
        )  # fmt: skip
        torch.manual_seed(number)
        info = CheckpointInfo(
            config=config, epoch=1, score_history=(0.0,), data_fingerprint="",
            class_names=tuple(f"class {k}" for k in range(options.classes)),
            class_colors=distinct_colors(options.classes),
        )  # fmt: skip
        member = folder.with_name(f"member_{number}")
        network = build_network(config, options.classes)
        save_checkpoint(member, info, network.state_dict(), training=None)
        members.append((member, 1.0))
    write_bundle(folder, members, metric="dice", scores={})
    return folder


if __name__ == "__main__":
    main()
