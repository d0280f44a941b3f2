import inspect
import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.errors import UserError
from segcore.training.losses import LOSSES, build_loss, class_weights

LN2 = math.log(2)


def loss_of(name: str, class_pixels: list[int] | None = None, **settings: float | str) -> nn.Module:
    config = TrialConfig(loss=name, loss_kwargs=settings)
    return build_loss(config, np.array(class_pixels or [10, 10, 10], dtype=np.int64))


def logits_of(probs_per_pixel: list[list[float]]) -> Tensor:
    """Logits (1, K, 1, pixels) whose softmax is the given probabilities, a list for each pixel."""
    return torch.tensor(probs_per_pixel, dtype=torch.float64).log().T[None, :, None, :]


def random_batch(num_classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, num_classes, 4, 5, dtype=torch.float64, generator=generator)
    mask = torch.randint(0, num_classes, (2, 4, 5), generator=generator)
    mask[:, 1, :3] = IGNORE_INDEX
    return logits, mask


def value_and_gradient(loss: nn.Module, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    value = loss(logits, mask)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


# Four pixels, two classes; the probability of class 1 and the truth:
#   p1     0.5   0.25   0.75   0.5
#   truth  1     0      1      ignored
# so the true class has 1/2, 3/4, 3/4, and the entropies are ln 2, ln 4/3, ln 4/3.
PROBS = [[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]
TRUTH = torch.tensor([[[1, 0, 1, IGNORE_INDEX]]])
LN43 = math.log(4 / 3)

# Softmax sums over the three labelled pixels:
#   class 0: TP = 0.75, predicted = 0.5 + 0.75 + 0.25 = 1.5, truth 1: FP = 0.75, FN = 0.25
#   class 1: TP = 1.25, predicted = 0.5 + 0.25 + 0.75 = 1.5, truth 2: FP = 0.25, FN = 0.75
HAND_COMPUTED = {
    "ce": ({}, (LN2 + 2 * LN43) / 3),
    # Class 0 has a quarter of the training pixels: weights ∝ 4 and 4/3, of mean 1: 1.5 and 0.5.
    "ce weighted": ({"class_weight_power": 1.0}, (0.5 * LN2 + 1.5 * LN43 + 0.5 * LN43) / 2.5),
    # Smoothing 0.2 puts 0.1 on the other class: −(0.9 ln p_true + 0.1 ln p_other).
    "ce smoothed": (
        {"label_smoothing": 0.2},
        (LN2 + 2 * (0.9 * LN43 + 0.1 * math.log(4))) / 3,
    ),
    # (1 − p)² is 1/4, 1/16, 1/16.
    "focal": ({}, (LN2 / 4 + 2 * LN43 / 16) / 3),
    "focal weighted": (
        {"gamma": 1.0, "class_weight_power": 1.0},
        (0.5 * LN2 / 2 + 1.5 * LN43 / 4 + 0.5 * LN43 / 4) / 2.5,
    ),
    # 2 TP / (predicted + truth): 1.5 / 2.5 = 0.6 and 2.5 / 3.5 = 5/7.
    "dice": ({"smooth": 0}, 1 - (0.6 + 5 / 7) / 2),
    # TP / (predicted + truth − TP): 0.75 / 1.75 = 3/7 and 1.25 / 2.25 = 5/9.
    "jaccard": ({"smooth": 0}, 1 - (3 / 7 + 5 / 9) / 2),
    # One pixel more above and below: 1.75 / 2.75 = 7/11 and 2.25 / 3.25 = 9/13.
    "jaccard smoothed": ({"smooth": 1}, 1 - (7 / 11 + 9 / 13) / 2),
    # 0.75 / (0.75 + 0.2·0.75 + 0.8·0.25) = 0.75 / 1.1;
    # 1.25 / (1.25 + 0.2·0.25 + 0.8·0.75) = 1.25 / 1.9.
    "tversky": ({"alpha": 0.2, "beta": 0.8, "smooth": 0}, 1 - (0.75 / 1.1 + 1.25 / 1.9) / 2),
    # Class 0, errors 0.5 (false), 0.25 (missed), 0.25 (false): 1 − IoU goes 0 → 1/2 → 1 → 1,
    #   so 0.5 · 1/2 + 0.25 · 1/2 + 0.25 · 0 = 3/8.
    # Class 1, errors 0.5 (missed), 0.25 (false), 0.25 (missed): 0 → 1/2 → 2/3 → 1,
    #   so 0.5 · 1/2 + 0.25 · 1/6 + 0.25 · 1/3 = 3/8.
    "lovasz": ({}, 3 / 8),
    # 0.25 · Dice + 0.75 · CE.
    "dice_ce": (
        {"smooth": 0, "region_share": 0.25},
        0.25 * (1 - (0.6 + 5 / 7) / 2) + 0.75 * (LN2 + 2 * LN43) / 3,
    ),
    "jaccard_ce": ({"smooth": 0}, (1 - (3 / 7 + 5 / 9) / 2) / 2 + (LN2 + 2 * LN43) / 6),
    "tversky_ce": (
        {"alpha": 0.2, "beta": 0.8, "smooth": 0, "class_weight_power": 1.0},
        (1 - (0.75 / 1.1 + 1.25 / 1.9) / 2) / 2 + (0.5 * LN2 + 2 * LN43) / 2.5 / 2,
    ),
    "lovasz_ce": ({}, 3 / 16 + (LN2 + 2 * LN43) / 6),
    "dice_focal": (
        {"smooth": 0, "gamma": 1.0},
        (1 - (0.6 + 5 / 7) / 2) / 2 + (LN2 / 2 + 2 * LN43 / 4) / 6,
    ),
}


@pytest.mark.parametrize("case", HAND_COMPUTED)
def test_each_loss_gives_the_value_computed_by_hand(case: str) -> None:
    settings, expected = HAND_COMPUTED[case]
    loss = loss_of(case.split()[0], class_pixels=[25, 75], **settings)
    assert loss(logits_of(PROBS), TRUTH).item() == pytest.approx(expected, rel=1e-6)


def test_every_registered_loss_has_a_hand_computed_value() -> None:
    assert {case.split()[0] for case in HAND_COMPUTED} == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_count_exactly_as_if_they_were_not_there(name: str) -> None:
    logits, mask = random_batch()
    labelled = mask != IGNORE_INDEX
    value, gradient = value_and_gradient(loss_of(name), logits, mask)

    other_logits = torch.where(labelled[:, None], logits, 30 * logits.sin())
    other_value, other_gradient = value_and_gradient(loss_of(name), other_logits, mask)
    assert torch.equal(other_value, value)
    assert torch.equal(other_gradient, gradient)
    assert not gradient.movedim(1, -1)[~labelled].any()

    without_logits = logits.movedim(1, -1)[labelled].T[None, :, None]
    without = value_and_gradient(loss_of(name), without_logits, mask[labelled][None, None])
    torch.testing.assert_close(without[0], value)
    torch.testing.assert_close(without[1][0, :, 0].T, gradient.movedim(1, -1)[labelled])


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_gives_zero_and_a_zero_gradient(name: str) -> None:
    logits, mask = random_batch()
    value, gradient = value_and_gradient(
        loss_of(name), logits.float(), torch.full_like(mask, IGNORE_INDEX)
    )
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_derivative(name: str) -> None:
    logits, mask = random_batch(seed=1)
    loss = loss_of(name)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, mask), logits.requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing_and_its_gradient_is_finite(name: str) -> None:
    mask = torch.tensor([[[0, 1, 2, IGNORE_INDEX]]])
    logits = 200 * torch.eye(3)[[0, 1, 2, 0]].T[None, :, None, :]
    value, gradient = value_and_gradient(loss_of(name), logits, mask)
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_and_certain_prediction_costs_more_than_an_unsure_one(name: str) -> None:
    mask = torch.tensor([[[0, 1, 2, 2]]])
    wrong = 20 * torch.eye(3)[[1, 2, 0, 0]].T[None, :, None, :]
    loss = loss_of(name)
    assert loss(wrong, mask) > loss(torch.zeros_like(wrong), mask) > 0


@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "lovasz"])
def test_classes_that_the_batch_lacks_do_not_enter_the_mean(name: str) -> None:
    # Class 2 has next to no probability and no truth: the two-class value must stay.
    with_third = [[*probs, 1e-12] for probs in PROBS]
    settings = {} if name == "lovasz" else {"smooth": 0}
    three = loss_of(name, **settings)(logits_of(with_third), TRUTH)
    two = loss_of(name, class_pixels=[1, 1], **settings)(logits_of(PROBS), TRUTH)
    torch.testing.assert_close(three, two)


def test_focal_loss_with_a_small_gamma_has_a_finite_gradient_at_certainty() -> None:
    logits = torch.tensor([[500.0, 0.0], [0.0, 0.0]]).T[None, :, None, :]
    mask = torch.tensor([[[0, IGNORE_INDEX]]])
    _, gradient = value_and_gradient(loss_of("focal", [1, 1], gamma=0.5), logits, mask)
    assert gradient.isfinite().all()


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits, mask = random_batch()
    settings = {"class_pixels": [1, 20, 300], "class_weight_power": 0.5}
    torch.testing.assert_close(
        loss_of("focal", gamma=0.0, **settings)(logits, mask),
        loss_of("ce", **settings)(logits, mask),
    )


def test_cross_entropy_agrees_with_torch() -> None:
    logits, mask = random_batch()
    loss = loss_of("ce", [5, 10, 85], class_weight_power=1.0, label_smoothing=0.1)
    weight = class_weights(np.array([5, 10, 85]), 1.0).double()
    expected = nn.functional.cross_entropy(
        logits, mask, weight, ignore_index=IGNORE_INDEX, label_smoothing=0.1
    )
    torch.testing.assert_close(loss(logits, mask), expected)


def test_class_weights_have_a_mean_of_one_over_the_classes_that_occur() -> None:
    # Inverse shares ∝ 100, 100/9, 1 → divided by their mean; a class without pixels weighs 1.
    weights = class_weights(np.array([1, 0, 9, 100]), power=1.0)
    mean = (100 + 100 / 9 + 1) / 3
    torch.testing.assert_close(weights, torch.tensor([100, mean, 100 / 9, 1]) / mean)
    assert torch.equal(class_weights(np.array([1, 0, 9]), power=0.0), torch.ones(3))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_summed_in_float32(name: str) -> None:
    # 300 × 300 pixels: a bfloat16 sum of so many ones stops growing at 256.
    logits = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask = torch.arange(90_000).reshape(1, 300, 300) % 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss_of(name)(logits, mask)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss_of(name)(logits.float(), mask))


def test_a_loss_of_the_users_own_is_found_by_its_import_path(plugin: str) -> None:
    loss = loss_of(f"{plugin}:Squared", class_pixels=[1, 2, 3], scale=2.0)
    logits = torch.zeros(1, 3, 1, 2)
    # (1 − 1/3)² = 4/9 at the one labelled pixel, times scale 2, times 6 training pixels.
    assert loss(logits, torch.tensor([[[1, IGNORE_INDEX]]])).item() == pytest.approx(4 / 9 * 12)


def test_a_loss_of_the_users_own_counts_nothing_for_a_batch_without_labels() -> None:
    """torch's own mean over no pixel is NaN, which would end the training."""
    loss = loss_of("torch.nn:CrossEntropyLoss", ignore_index=IGNORE_INDEX)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), IGNORE_INDEX))
    value.backward()
    assert value.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize(
    ("attribute", "finding"),
    [
        ("ForgetsToIgnore", "failed on logits (2, 3, 32, 32)"),
        ("CountsIgnored", "ignored pixels have a gradient; leave out mask == 255"),
        ("NotAModule", "gave a float; it must give a torch.nn.Module"),
        ("NUMBER", "is a int; name a class or function"),
    ],
)
def test_a_broken_loss_of_the_users_own_is_refused(
    plugin: str, attribute: str, finding: str
) -> None:
    with pytest.raises(UserError, match=f"{plugin}:{attribute}") as error:
        loss_of(f"{plugin}:{attribute}")
    assert finding in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "focal",
            {"gama": 2.0},
            "loss 'focal', loss_kwargs: unknown gama; "
            "allowed: gamma (default 2.0), class_weight_power (default 0.0)",
        ),
        ("ce", {"class_pixels_K": 3}, "unknown class_pixels_K"),
        ("lovasz", {"smooth": 1.0}, "unknown smooth; allowed: none, it has no settings"),
        (
            "dice_ce",
            {"alpha": 0.5},
            "unknown alpha; allowed: region_share (default 0.5), smooth (default 1.0), "
            "class_weight_power (default 0.0), label_smoothing (default 0.0)",
        ),
        ("focal", {"gamma": -1.0}, "gamma = -1.0; it must be a number from 0 to 10"),
        ("focal", {"gamma": "high"}, "gamma = 'high'; it must be a number"),
        (
            "dice_focal",
            {"region_share": 1.5},
            "region_share = 1.5; it must be a number from 0 to 1",
        ),
        ("tversky", {"alpha": 0, "beta": 0}, "alpha and beta are both 0"),
        ("dyce", {}, "unknown loss 'dyce'. Did you mean dice"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    name: str, settings: dict[str, float | str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        loss_of(name, **settings)
    assert message in str(error.value)


def test_a_missing_setting_is_named(plugin: str) -> None:
    with pytest.raises(UserError, match="missing scale; allowed: scale"):
        loss_of(f"{plugin}:Squared")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The name of a module with losses such as users write them."""
    source = """
        from torch import nn
        from torch.nn import functional as F

        NUMBER = 3

        class Squared(nn.Module):
            def __init__(self, class_pixels_K, scale):
                super().__init__()
                self.factor = float(class_pixels_K.sum()) * scale

            def forward(self, logits, mask):
                labelled = mask != 255
                p = logits.softmax(1).gather(1, mask.where(labelled, 0)[:, None])[:, 0]
                return self.factor * ((1 - p) ** 2)[labelled].mean()

        class ForgetsToIgnore(nn.Module):
            def forward(self, logits, mask):
                return F.cross_entropy(logits, mask)

        class CountsIgnored(nn.Module):
            def forward(self, logits, mask):
                return F.cross_entropy(logits, mask.where(mask != 255, 0))

        def NotAModule():
            return 1.0
    """
    (tmp_path / "own_losses.py").write_text(inspect.cleandoc(source))
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_losses"
    sys.modules.pop("own_losses", None)
