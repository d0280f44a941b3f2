"""Bands: which bands of a file are a network's channels, and what their numbers mean.

In memory and in the cache a photograph has uint8 samples where its files have 8 bits, and their
0 … 255 mean 0 … 1. All other data, and those with a ``range``, have uint16 samples, whose
0 … 65535 span the range of their channel for the whole data set.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHANNELS = 16
_FULL = 65535

Samples = NDArray[np.uint8 | np.uint16]
Range = tuple[float, float]


@dataclass(frozen=True)
class Bands:
    """How photographs are read. ``measuring.complete_bands`` fills in what must be measured.

    The default is RGB of 8 bits: the first three bands that are not alpha; grey is repeated.
    """

    numbers: tuple[int | str, ...] | None = None
    """The band of each channel: its number from 1, or its description in the file."""
    ranges: tuple[Range, ...] | None = None
    """For each channel the raw values that become 0 and 1. None: samples of 8 bits, 0 … 255."""
    nodata: float | None = None
    """The raw value of pixels without data, beside what the files themselves say."""
    show: tuple[int | str, ...] | None = None
    """The bands that people see as red, green and blue, or the one that they see as grey."""
    colors: tuple[int | None, ...] | None = None
    """Which colour each channel is (0 red, 1 green, 2 blue), by the files; None: another one."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel (0 … 1) in the training photographs, where it was measured."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, likewise."""
    measured: bool = False
    """Whether ``ranges`` were measured. Then files of 8 bits are 0 … 255 beside the others."""

    def __post_init__(self) -> None:
        numbers = self.numbers
        if numbers is not None:
            if not 1 <= len(numbers) <= MAX_CHANNELS:
                raise ValueError(f"bands: {len(numbers)} bands; allowed are 1 to {MAX_CHANNELS}")
            if wrong := [n for n in numbers if isinstance(n, int) and n < 1]:
                raise ValueError(f"bands: there is no band {wrong[0]}; they are counted from 1")
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"bands: one stands twice in {list(numbers)}")
        for name in ("ranges", "colors", "mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(
                    f"{name.rstrip('s')}: {len(values)} for {self.channels} bands; "
                    "give one for each of them, or the same for all"
                )
        for low, high in self.ranges or ():
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"range [{low:g}, {high:g}]: the second value must be the larger")
        self._check_show()

    def _check_show(self) -> None:
        known = self._names
        if self.show is None:
            return
        if len(self.show) not in (1, 3):
            raise ValueError(f"show: {len(self.show)} bands; three are shown as RGB, one as grey")
        if missing := [number for number in self.show if number not in known]:
            allowed = ", ".join(map(str, known))
            raise ValueError(f"show: {missing[0]!r} is none of the bands; allowed: {allowed}")

    @property
    def _names(self) -> tuple[int | str, ...]:
        """The bands that ``show`` may choose from."""
        return self.numbers or (1, 2, 3)

    @property
    def channels(self) -> int:
        """C of ``samples_HWC``."""
        return 3 if self.numbers is None else len(self.numbers)

    @property
    def channel_colors(self) -> tuple[int | None, ...]:
        """Which colour each channel is (0 red, 1 green, 2 blue); None: another one."""
        if self.numbers is None:
            return 0, 1, 2
        return self.colors or (None,) * self.channels

    @property
    def shown(self) -> tuple[int, ...]:
        """The three channels that people see as RGB, or the one that they see as grey."""
        if self.show is not None:
            return tuple(self._names.index(name) for name in self.show)
        if {0, 1, 2} <= set(self.channel_colors):
            return tuple(self.channel_colors.index(color) for color in range(3))
        return (0, 1, 2) if self.channels >= 3 else (0,)

    @property
    def eight_bits(self) -> bool:
        """Whether samples are uint8; otherwise they are uint16."""
        return self.ranges is None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of samples."""
        return np.dtype(np.uint8 if self.eight_bits else np.uint16)

    def encode(self, raw_HWC: NDArray[Any]) -> Samples:
        """The samples of raw values; those outside of the range are clipped, NaN becomes 0."""
        if self.ranges is None:
            return raw_HWC.astype(np.uint8, copy=False)
        if self.measured and raw_HWC.dtype == np.uint8:
            return raw_HWC * np.uint16(_FULL // 255)
        samples_HWC = np.empty(raw_HWC.shape, self.dtype)
        # A float32 holds 24 bits, which is enough for the numbers of 16 bits and their half.
        exact = np.float32 if raw_HWC.dtype.itemsize <= 2 else np.float64
        for channel, (low, high) in enumerate(self.ranges):
            value_HW: NDArray[Any] = raw_HWC[..., channel].astype(exact)
            value_HW -= low
            value_HW *= _FULL / (high - low)
            np.nan_to_num(value_HW, copy=False, nan=0, posinf=0, neginf=0)
            samples_HWC[..., channel] = value_HW.round().clip(0, _FULL)
        return samples_HWC


RGB = Bands()
"""Red, green and blue of 8 bits."""


def to_tensor(samples_HWC: Samples | NDArray[np.float32]) -> "Tensor":
    """CHW for a network: uint8 as they are, all others as float32 of 0 … 255.

    Beside samples these may be pixels of 0 … 1 in float32, which augmentation makes of 16 bits.
    """
    import torch  # It takes seconds, and to prepare photographs needs none of it.

    samples_CHW = samples_HWC.transpose(2, 0, 1)
    if samples_CHW.dtype == np.uint8:
        # A copy: torch wants memory that it may write, and the cache is mapped read-only.
        return torch.from_numpy(np.array(samples_CHW, order="C"))
    full = _FULL if samples_CHW.dtype == np.uint16 else 1
    return torch.from_numpy(np.array(samples_CHW, np.float32, order="C")) * (255 / full)


def to_rgb8(samples_HWC: Samples, bands: Bands = RGB) -> NDArray[np.uint8]:
    """The picture that people see of samples: HWC, uint8, RGB.

    Samples of 8 bits are shown as they are. Of others the middle 96 % of each channel are spread
    over black to white, as a GIS does, because a sensor's range is much wider than one picture's.
    """
    shown_HWC = samples_HWC[..., bands.shown]
    if shown_HWC.dtype != np.uint8:
        shown_HWC = np.stack([_stretched(shown_HWC[..., c]) for c in range(len(bands.shown))], -1)
    height_px, width_px = shown_HWC.shape[:2]
    return np.ascontiguousarray(np.broadcast_to(shown_HWC, (height_px, width_px, 3)), np.uint8)


def _stretched(samples_HW: NDArray[Any]) -> NDArray[np.uint8]:
    step = max(1, max(samples_HW.shape) // 1000)
    with_data = samples_HW[::step, ::step]
    with_data = with_data[with_data > 0]  # Where there are no data, samples are 0.
    if not with_data.size:
        return np.zeros(samples_HW.shape, np.uint8)
    low, high = np.percentile(with_data, (2, 98))
    if high <= low:  # A uniform picture is as bright as it is.
        low, high = 0, _FULL
    value_HW = (samples_HW.astype(np.float32) - low) * (255 / (high - low))
    return value_HW.round().clip(0, 255).astype(np.uint8)
