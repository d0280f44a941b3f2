"""Preparation of 4000×3000 photographs for 368×368: Pillow + torchvision against segcore.

Command: python -m benchmarks.prepare [--photos 12] [--data DIR]

Both sides run in this process, on the same files, with the same number of threads, in turns; the
median of the rounds counts. Core time is that of all threads together: other work on the machine
hardly changes it. The baseline opens with Pillow and resizes with torchvision: the image
with antialiasing, the mask by nearest neighbour. Ours is what the cache does besides writing: it
also checks every mask value and finds truncated files.

Prediction, from the pieces: of a 4 MB JPEG, 1/8 decoding leaves the entropy decoding, about a
quarter of opening and resizing; of a PNG mask nothing can be left out. Image about 4 times as fast,
mask equal, the pair about twice. Photographs with little detail, or against a float tensor
(ToTensor before Resize), gain more.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from segcore.data.dataset import load_dataset
from segcore.data.windows import Grid, scale_image, scale_mask
from segcore.reading.images import read_image
from segcore.reading.masks import MaskCoding, read_mask

SIZE_PX = 368
GRID = Grid(SIZE_PX, SIZE_PX)


@dataclass(frozen=True)
class Options:
    """Time the preparation of photographs against Pillow + torchvision."""

    photos: int = 12
    """Photographs to draw (at 4000×3000 px), or at most to take from --data."""
    data: Path | None = None
    """Folder with a dataset.yaml, instead of drawn photographs."""
    workers: int = len(os.sched_getaffinity(0))
    """Threads, on both sides."""
    rounds: int = 3
    """Repetitions; the median counts."""


@dataclass(frozen=True)
class Sample:
    """One photograph, its mask, and what the mask's values mean."""

    image: Path
    mask: Path
    coding: MaskCoding


def main(options: Options) -> None:
    """Print milliseconds per photograph of both sides, and their ratio."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples = (
            draw_samples(Path(folder), options.photos)
            if options.data is None
            else real_samples(options.data, options.photos)
        )
        size_mb = sum(sample.image.stat().st_size for sample in samples) / len(samples) / 1e6
        print(f"{len(samples)} photographs of {size_mb:.1f} MB, {options.workers} threads a side")
        print(f"{'ms per photograph':18} {'core time':^24}   {'elapsed':^24}")
        print(" " * 18 + "  ".join([f"{'baseline':>9} {'segcore':>8} {'ratio':>5}"] * 2))
        rows: dict[str, tuple[Callable[[Sample], object], Callable[[Sample], object]]] = {
            "image": (baseline_image, our_image),
            "mask": (baseline_mask, our_mask),
            "both": (
                lambda sample: (baseline_image(sample), baseline_mask(sample)),
                lambda sample: (our_image(sample), our_mask(sample)),
            ),
            "image, as tensor": (tensor_image, our_image),
        }
        for title, sides in rows.items():
            baseline, ours = compare(sides, samples, options)
            print(
                f"{title:18}"
                + "  ".join(
                    f"{a:9.1f} {b:8.1f} {a / b:5.1f}" for a, b in zip(baseline, ours, strict=True)
                )
            )


def compare(
    sides: Sequence[Callable[[Sample], object]], samples: Sequence[Sample], options: Options
) -> list[list[float]]:
    """Median milliseconds per photograph, (core time, elapsed), of the sides, which take turns."""
    taken: list[list[tuple[float, float]]] = [[] for _ in sides]
    with ThreadPoolExecutor(options.workers) as pool:
        for round_number in range(options.rounds + 1):
            for side, times in zip(sides, taken, strict=True):
                begin = time.process_time(), time.perf_counter()
                list(pool.map(side, samples))
                end = time.process_time(), time.perf_counter()
                if round_number > 0:  # The first warms up.
                    times.append((end[0] - begin[0], end[1] - begin[1]))
    per_photo_ms = 1e3 / len(samples)
    return [
        [statistics.median(seconds) * per_photo_ms for seconds in zip(*times, strict=True)]
        for times in taken
    ]


def baseline_image(sample: Sample) -> np.ndarray:
    """Open with Pillow, resize with torchvision."""
    image = Image.open(sample.image).convert("RGB")
    return np.asarray(transforms.resize(image, [SIZE_PX, SIZE_PX], antialias=True))


def tensor_image(sample: Sample) -> torch.Tensor:
    """The same on a float tensor, as after torchvision's ToTensor."""
    tensor = transforms.to_dtype(
        transforms.pil_to_tensor(Image.open(sample.image).convert("RGB")), scale=True
    )
    return transforms.resize(tensor, [SIZE_PX, SIZE_PX], antialias=True)


def baseline_mask(sample: Sample) -> np.ndarray:
    """Open with Pillow, take the nearest pixels with torchvision."""
    mask = Image.open(sample.mask)
    return np.asarray(
        transforms.resize(mask, [SIZE_PX, SIZE_PX], interpolation=InterpolationMode.NEAREST)
    )


def our_image(sample: Sample) -> np.ndarray:
    """Decode at a reduced size, take the mean of the area."""
    return np.asarray(scale_image(read_image(sample.image, (SIZE_PX, SIZE_PX)), GRID))


def our_mask(sample: Sample) -> np.ndarray:
    """Decode, check every value, take the nearest pixels."""
    return scale_mask(read_mask(sample.mask, sample.coding), GRID)


def real_samples(folder: Path, limit: int) -> list[Sample]:
    """Photographs of a data set."""
    dataset = load_dataset(folder)
    return [
        Sample(photo.path, photo.mask_path, dataset.spec.coding) for photo in dataset.photos[:limit]
    ]


def draw_samples(folder: Path, count: int) -> list[Sample]:
    """Textured patches with 25 classes, about 4 MB a JPEG and 150 kB a mask as from a UAV."""
    rng = np.random.default_rng(0)
    coding = MaskCoding(by_color=False, classes=tuple((index, index) for index in range(25)))
    samples = []
    for index in range(count):
        blobs = cv2.resize(rng.random((12, 16), np.float32), (4000, 3000), interpolation=2)
        mask = np.clip(blobs * 25, 0, 24).astype(np.uint8)
        palette = rng.integers(0, 200, (25, 3))
        image = palette[mask].astype(np.float32)
        for grain_px, strength in ((1, 5.0), (4, 9.0), (16, 14.0)):
            grain = rng.standard_normal((3000 // grain_px, 4000 // grain_px), np.float32) * strength
            image += cv2.resize(grain, (4000, 3000))[..., None]
        sample = Sample(folder / f"{index}.jpg", folder / f"{index}.png", coding)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(sample.image, quality=90)
        Image.fromarray(mask).save(sample.mask)
        samples.append(sample)
    return samples


if __name__ == "__main__":
    main(tyro.cli(Options))
