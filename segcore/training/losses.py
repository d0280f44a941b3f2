"""LOSSES: what a trial can minimise. Each of them leaves out pixels of ``IGNORE_INDEX`` exactly.

A built loss takes ``logits_NKHW`` (float) and ``mask_NHW`` (int64: 0…K−1 or ``IGNORE_INDEX``) and
returns a scalar. For a batch without a labelled pixel it gives 0, with a gradient of 0.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from segcore.config import IGNORE_INDEX, Scalar, TrialConfig
from segcore.errors import UserError
from segcore.plugins import is_import_path, resolve

LossFactory = Callable[..., nn.Module]
"""Takes the settings of a loss by keyword, and ``class_pixels_K`` if it has such a parameter."""


class CrossEntropyLoss(nn.Module):
    """Cross entropy in which a pixel has the weight of its true class (``class_weights``)."""

    weight_K: Tensor

    def __init__(
        self,
        class_pixels_K: NDArray[np.int64],
        class_weight_power: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_range("label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing = label_smoothing
        self.register_buffer("weight_K", class_weights(class_pixels_K, class_weight_power))

    def forward(self, logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
        """Sum over labelled pixels of weight · cross entropy, divided by the sum of weights."""
        # cross_entropy's own mean would be NaN for a batch without labels.
        weight_K = self.weight_K.to(logits_NKHW.dtype)
        loss_NHW = F.cross_entropy(
            logits_NKHW,
            mask_NHW,
            weight_K,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        return loss_NHW.sum() / _total_weight(weight_K, mask_NHW)


class FocalLoss(nn.Module):
    """Cross entropy times (1 − p)^gamma for each pixel, p being its true class's probability.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5. With ``gamma`` 0 it is
    cross entropy, because the mean is weighted in the same way.
    """

    weight_K: Tensor

    def __init__(
        self,
        class_pixels_K: NDArray[np.int64],
        gamma: float = 2.0,
        class_weight_power: float = 0.0,
    ) -> None:
        super().__init__()
        _check_range("gamma", gamma, 0, 10)
        self.gamma = gamma
        self.register_buffer("weight_K", class_weights(class_pixels_K, class_weight_power))

    def forward(self, logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
        """Sum over labelled pixels of weight · focal loss, divided by the sum of weights."""
        weight_K = self.weight_K.to(logits_NKHW.dtype)
        entropy_NHW = F.cross_entropy(
            logits_NKHW, mask_NHW, ignore_index=IGNORE_INDEX, reduction="none"
        )
        # This is 1 − p without cancellation. For gamma < 1, the floor keeps the gradient finite
        # where p = 1, which includes ignored pixels, because their entropy is 0.
        doubt_NHW = (-torch.expm1(-entropy_NHW)).clamp(min=1e-12)
        loss_NHW = _pixel_weights(weight_K, mask_NHW) * doubt_NHW**self.gamma * entropy_NHW
        return loss_NHW.sum() / _total_weight(weight_K, mask_NHW)


class TverskyLoss(nn.Module):
    """1 − Tversky index of the softmax: false pixels cost ``alpha``, missed pixels ``beta``.

    A class has the index (TP + smooth) / (TP + alpha·FP + beta·FN + smooth), with sums over the
    whole batch; the mean is over the classes in the batch's truth. ``smooth``, in pixels, steadies
    the index of classes with few pixels in the batch. Salehi et al. 2017, "Tversky loss function
    for image segmentation using 3D fully convolutional deep networks", equations 1 and 2.
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0) -> None:
        super().__init__()
        _check_range("alpha", alpha, 0, 10)
        _check_range("beta", beta, 0, 10)
        _check_range("smooth", smooth, 0, 1e6)
        if alpha == beta == 0:
            raise UserError(
                "alpha and beta are both 0, so no mistake would cost anything; raise one"
            )
        self.alpha, self.beta, self.smooth = alpha, beta, smooth

    def forward(self, logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
        """Mean over the classes in the batch's truth of 1 − index."""
        truth_NKHW = _one_hot(mask_NHW, logits_NKHW.shape[1])
        probs_NKHW = logits_NKHW.softmax(dim=1)
        # For the backward pass, torch.where saves only booleans; a product would save floats.
        true_positive_K = torch.where(truth_NKHW, probs_NKHW, 0).sum(dim=(0, 2, 3))
        labelled_N1HW = (mask_NHW != IGNORE_INDEX).unsqueeze(1)
        predicted_K = torch.where(labelled_N1HW, probs_NKHW, 0).sum(dim=(0, 2, 3))
        truth_K = truth_NKHW.sum(dim=(0, 2, 3))

        false_positive_K = predicted_K - true_positive_K
        false_negative_K = truth_K - true_positive_K
        union_K = true_positive_K + self.alpha * false_positive_K + self.beta * false_negative_K
        index_K = (true_positive_K + self.smooth) / (union_K + self.smooth).clamp(min=1e-12)
        present_K = truth_K > 0
        return torch.where(present_K, 1 - index_K, 0).sum() / present_K.sum().clamp(min=1)


def dice(smooth: float = 1.0) -> nn.Module:
    """1 − Dice coefficient: Tversky's index with both costs 1/2 (Salehi et al. 2017, section 2)."""
    return TverskyLoss(alpha=0.5, beta=0.5, smooth=smooth)


def jaccard(smooth: float = 1.0) -> nn.Module:
    """1 − intersection over union: the index with both costs 1 (Salehi et al. 2017, section 2)."""
    return TverskyLoss(alpha=1.0, beta=1.0, smooth=smooth)


class LovaszLoss(nn.Module):
    """Lovász-softmax over the whole batch, the mean over the classes in the batch's truth.

    The convex closure of 1 − intersection over union, as a function of every pixel's error.
    Berman et al. 2018, "The Lovász-Softmax loss", equations 8 to 11.
    """

    def __init__(self) -> None:  # Module's own __init__ seems to take any setting.
        super().__init__()

    def forward(self, logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
        """Mean over the classes in the batch's truth of the sum of error · slope."""
        truth_NKHW = _one_hot(mask_NHW, logits_NKHW.shape[1])
        probs_NKHW = logits_NKHW.softmax(dim=1)
        error_NKHW = torch.where(truth_NKHW, 1 - probs_NKHW, probs_NKHW)
        classes = truth_NKHW.any(dim=3).any(dim=2).any(dim=0).nonzero().flatten().tolist()
        labelled_NHW = mask_NHW != IGNORE_INDEX

        # As long as the order of the errors stays, the loss is linear in them. So the order needs
        # no gradient, and autograd keeps one number per error instead of the sorts of all classes.
        slope_NKHW = torch.zeros_like(error_NKHW)
        for k in classes:
            slope_NKHW[:, k][labelled_NHW] = _lovasz_slope(
                error_NKHW[:, k][labelled_NHW].detach(), truth_NKHW[:, k][labelled_NHW]
            )
        return (error_NKHW * slope_NKHW).sum() / max(len(classes), 1)


def _lovasz_slope(error_V: Tensor, truth_V: Tensor) -> Tensor:
    """How much 1 − IoU grows as the pixels turn wrong one by one, the largest error first.

    Berman's algorithm 1 takes differences of neighbouring values, which lose digits. Here they are
    written out: a missed pixel takes 1 from the intersection, a false one adds 1 to the union.
    """
    order_V = error_V.argsort(descending=True)
    missed_V = truth_V[order_V]
    intersection_V = missed_V.sum() - missed_V.cumsum(0)
    union_V = missed_V.sum() + (~missed_V).cumsum(0)
    growth_V = torch.where(
        missed_V,
        1 / union_V.to(error_V.dtype),
        intersection_V / (union_V * (union_V - 1)).clamp(min=1).to(error_V.dtype),
    )
    return torch.empty_like(error_V).scatter_(0, order_V, growth_V)


class SumLoss(nn.Module):
    """``share`` · ``region`` + (1 − ``share``) · ``pixel``."""

    def __init__(self, region: nn.Module, pixel: nn.Module, share: float) -> None:
        super().__init__()
        _check_range("region_share", share, 0, 1)
        self.region, self.pixel, self.region_share = region, pixel, share

    def forward(self, logits_NKHW: Tensor, mask_NHW: Tensor) -> Tensor:
        """The weighted sum of both losses of a batch."""
        region: Tensor = self.region(logits_NKHW, mask_NHW)
        pixel: Tensor = self.pixel(logits_NKHW, mask_NHW)
        return self.region_share * region + (1 - self.region_share) * pixel


def sum_of(region: LossFactory, pixel: LossFactory) -> LossFactory:
    """A factory of the two losses' ``SumLoss``: it takes the settings of both and region_share."""
    of_region, of_pixel = (inspect.signature(part).parameters for part in (region, pixel))

    def build(*, region_share: float = 0.5, **settings: Any) -> nn.Module:
        return SumLoss(
            region(**{name: value for name, value in settings.items() if name in of_region}),
            pixel(**{name: value for name, value in settings.items() if name in of_pixel}),
            region_share,
        )

    # build_loss reads the settings of a loss from its factory's signature.
    share = inspect.signature(build).parameters["region_share"]
    of_parts = {**of_region, **of_pixel}.values()
    build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [share, *(parameter.replace(kind=share.kind) for parameter in of_parts)]
    )
    return build


LOSSES: dict[str, LossFactory] = {
    "ce": CrossEntropyLoss,
    "focal": FocalLoss,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": TverskyLoss,
    "lovasz": LovaszLoss,
    "dice_ce": sum_of(dice, CrossEntropyLoss),
    "jaccard_ce": sum_of(jaccard, CrossEntropyLoss),
    "tversky_ce": sum_of(TverskyLoss, CrossEntropyLoss),
    "lovasz_ce": sum_of(LovaszLoss, CrossEntropyLoss),
    "dice_focal": sum_of(dice, FocalLoss),
}


class FullPrecision(nn.Module):
    """Runs a loss in float32 or float64, even under autocast: its sums are over megapixels."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, logits_NKHW: Tensor, mask_NHW: Tensor, batch_mask_NHW: Tensor | None = None
    ) -> Tensor:
        """The loss of these images.

        If they are a part of a batch whose masks are ``batch_mask_NHW``, it is their part of the
        batch's loss (``part_of_batch``).
        """
        if batch_mask_NHW is None:
            batch_mask_NHW = mask_NHW
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            dtype = torch.promote_types(logits_NKHW.dtype, torch.float32)
            return part_of_batch(self.loss, logits_NKHW.to(dtype), mask_NHW, batch_mask_NHW)


def part_of_batch(
    loss: nn.Module, logits_NKHW: Tensor, mask_NHW: Tensor, batch_mask_NHW: Tensor
) -> Tensor:
    """The part of a batch's loss that comes from some of its images.

    For cross entropy and focal loss, which are weighted means over pixels, the parts of a batch add
    up to its loss exactly. For Dice, Jaccard, Tversky, Lovász and a user's own loss they add up to
    a mean of the parts' own losses, weighted by their numbers of labelled pixels.
    """
    if isinstance(loss, SumLoss):
        region = part_of_batch(loss.region, logits_NKHW, mask_NHW, batch_mask_NHW)
        pixel = part_of_batch(loss.pixel, logits_NKHW, mask_NHW, batch_mask_NHW)
        return loss.region_share * region + (1 - loss.region_share) * pixel
    weight_K = logits_NKHW.new_ones(logits_NKHW.shape[1])
    if isinstance(loss, CrossEntropyLoss | FocalLoss):
        weight_K = loss.weight_K.to(logits_NKHW.dtype)
    share = _pixel_weights(weight_K, mask_NHW).sum() / _total_weight(weight_K, batch_mask_NHW)
    # A user's own loss may be NaN for images without a labelled pixel, as a mean over none is.
    return torch.where(share > 0, share * loss(logits_NKHW, mask_NHW), 0)


def build_loss(config: TrialConfig, class_pixels_K: NDArray[np.int64]) -> nn.Module:
    """The loss that ``config`` names, with its ``loss_kwargs``.

    ``class_pixels_K`` int64: the number of each class's pixels in the training split. A user's own
    loss is tried on a small batch. Raises ``UserError`` if the name, a setting or the try is wrong.
    """
    factory = resolve("loss", config.loss, LOSSES)
    if not callable(factory):
        raise UserError(
            f"loss {config.loss!r}: is a {type(factory).__name__}; name a class or function"
        )
    settings: dict[str, Any] = dict(config.loss_kwargs)
    parameters = inspect.signature(factory).parameters
    _check_settings(config.loss, settings, parameters)
    if "class_pixels_K" in parameters:
        settings["class_pixels_K"] = class_pixels_K
    try:
        loss = factory(**settings)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"loss {config.loss!r}, loss_kwargs: {error}") from error
    if not isinstance(loss, nn.Module):
        raise UserError(
            f"loss {config.loss!r}: gave a {type(loss).__name__}; it must give a torch.nn.Module"
        )
    loss = FullPrecision(loss)
    if is_import_path(config.loss):
        _try_out(config.loss, loss, num_classes=len(class_pixels_K))
    return loss


def class_weights(class_pixels_K: NDArray[np.int64], power: float) -> Tensor:
    """Weights share^−power, scaled to a mean of 1 over the classes that occur: float32 (K,).

    With ``power`` 0 all weights are equal; with 1 they are the inverse of the class's share of
    pixels. A class that doesn't occur has weight 1: only the validation loss can show it.
    """
    _check_range("class_weight_power", power, 0, 2)
    pixels_K = np.asarray(class_pixels_K, dtype=np.float64)
    present_K = pixels_K > 0
    weight_K = np.ones_like(pixels_K)
    if present_K.any():
        # Relative to the largest class nothing overflows, and the scale cancels in the mean.
        raw = (pixels_K[present_K] / pixels_K.max()) ** -power
        weight_K[present_K] = raw / raw.mean()
    return torch.from_numpy(weight_K).float()


def _one_hot(mask_NHW: Tensor, num_classes: int) -> Tensor:
    """Bool (N, K, H, W), false at ignored pixels. torch's own one_hot takes 8 bytes per value."""
    classes_K = torch.arange(num_classes, device=mask_NHW.device)
    return mask_NHW.unsqueeze(1) == classes_K[:, None, None]


def _pixel_weights(weight_K: Tensor, mask_NHW: Tensor) -> Tensor:
    """Each pixel's class weight, 0 where it is ignored."""
    labelled_NHW = mask_NHW != IGNORE_INDEX
    return torch.where(labelled_NHW, weight_K[mask_NHW.where(labelled_NHW, 0)], 0)


def _total_weight(weight_K: Tensor, mask_NHW: Tensor) -> Tensor:
    """The sum of the pixels' weights, to divide by; 1 for a batch without labels, not 0."""
    total = _pixel_weights(weight_K, mask_NHW).sum()
    return total.where(total > 0, 1)


def _check_range(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name} = {value!r}; it must be a number from {low:g} to {high:g}")


def _check_settings(
    loss: str, settings: Mapping[str, Scalar], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Raise ``UserError`` if a setting is unknown to the factory, or missing."""
    named = {
        name: p
        for name, p in parameters.items()
        if name != "class_pixels_K" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if takes_any else sorted(settings.keys() - named.keys())
    missing = [n for n, p in named.items() if p.default is p.empty and n not in settings]
    findings = [f"unknown {', '.join(unknown)}"] if unknown else []
    findings += [f"missing {', '.join(missing)}"] if missing else []
    if findings:
        allowed = ", ".join(
            n if p.default is p.empty else f"{n} (default {p.default})" for n, p in named.items()
        )
        raise UserError(
            f"loss {loss!r}, loss_kwargs: {' and '.join(findings)}; "
            f"allowed: {allowed or 'none, it has no settings'}"
        )


def _try_out(name: str, loss: nn.Module, num_classes: int) -> None:
    """Raise ``UserError`` unless a user's own loss gives a finite value and ignores pixels."""
    logits = torch.linspace(-1, 1, 2 * num_classes * 32 * 32).reshape(2, num_classes, 32, 32)
    logits.requires_grad_()
    mask = torch.arange(2 * 32 * 32).reshape(2, 32, 32) % num_classes
    mask[:, :8] = IGNORE_INDEX
    try:
        value = loss(logits, mask)
        (gradient,) = torch.autograd.grad(value, logits)
    except Exception as error:  # The user's code may raise anything.
        raise UserError(
            f"loss {name!r}: failed on logits (2, {num_classes}, 32, 32) and a mask (2, 32, 32) "
            f"that holds {IGNORE_INDEX} for ignored pixels: {type(error).__name__}: {error}"
        ) from error
    if not torch.isfinite(value) or not torch.isfinite(gradient).all():
        raise UserError(f"loss {name!r}: gave {value} or a gradient that is not finite")
    if gradient[:, :, :8].any():
        raise UserError(
            f"loss {name!r}: ignored pixels have a gradient; leave out mask == {IGNORE_INDEX}"
        )
