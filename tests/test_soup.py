"""A mean of weights is a network again, where its ingredients allow."""

import functools

import numpy as np
import torch
from torch import nn

from segcore.choosing.left_out import Bags
from segcore.choosing.soup import average_weights, greedy_soup, mend_normalisation
from segcore.config import TrialConfig
from segcore.networks.models import build_network

CPU = torch.device("cpu")


def tiny_network() -> nn.Module:
    config = TrialConfig(
        height_px=48, width_px=48, architecture="scratch_unet", encoder=None,
        model_kwargs={"base_channels": 4, "depth": 2},
    )  # fmt: skip
    return build_network(config, 3)


def test_a_soup_of_one_network_thrice_is_that_network() -> None:
    state = tiny_network().state_dict()
    for name, tensor in average_weights([state, state, state]).items():
        assert tensor.dtype == state[name].dtype
        torch.testing.assert_close(tensor, state[name], rtol=1e-6, atol=0)


def test_weights_are_averaged_and_counters_kept() -> None:
    first = {"weight": torch.tensor([1.0, 3.0]), "num_batches_tracked": torch.tensor(7)}
    second = {"weight": torch.tensor([2.0, 5.0]), "num_batches_tracked": torch.tensor(100)}
    soup = average_weights([first, second])
    assert soup["weight"].tolist() == [1.5, 4.0]
    assert soup["num_batches_tracked"].item() == 7


def test_only_ingredients_that_do_not_harm_stay_in() -> None:
    def closest(*ingredients: float) -> tuple[int, ...]:
        return greedy_soup(
            len(ingredients), lambda kept: -abs(np.mean([ingredients[i] for i in kept]) - 1)
        )

    # Best first: 0.8 alone; 1.3 brings the mean to 1.05; 9 would spoil it; 0.85 mends it to 0.98.
    assert closest(0.8, 1.3, 9.0, 0.85) == (0, 1, 3)
    assert closest(1.0, 5.0) == (0,)


def test_batch_normalisation_learns_the_statistics_of_the_images() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[1].running_mean.fill_(50.0)
    images = torch.randn(12, 3, 8, 8)
    mend_normalisation(network, images.split(4), CPU)  # type: ignore[arg-type]
    with torch.no_grad():
        activation = network[0](images)
        torch.testing.assert_close(network[1].running_mean, activation.mean(dim=(0, 2, 3)))
        assert network(images).mean().abs() < 1e-5
    assert not network.training


def test_what_a_soup_promises_was_chosen_on_other_photographs() -> None:
    """All soups are equally good but for luck, by which their ingredients are chosen."""
    rng, chosen, promised = np.random.default_rng(0), [], []
    for _ in range(100):
        right_P = functools.cache(lambda kept, rng=rng: 700 + 60 * rng.standard_normal(16))

        def greedy(times_P: np.ndarray, right_P=right_P) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
            return greedy_soup(5, lambda kept: float(np.average(right_P(kept), weights=times_P)))

        bags = Bags.draw(range(16), [str(photo) for photo in range(16)])
        counts = []
        for times_P in bags.times_BP:
            counts_P3K = np.full((16, 3, 1), 1000.0)
            counts_P3K[:, 0, 0] = right_P(greedy(times_P))
            counts.append(counts_P3K)
        chosen.append(right_P(greedy(np.ones(16, np.int64))).mean() / 1000)
        promised.append(bags.left_out(counts, counts[0]).score("pixel_accuracy"))
    error = np.std(promised) / 10
    assert np.mean(chosen) > 0.7 + 8 * error, "its own score is luck"
    assert abs(np.mean(promised) - 0.7) < 3 * error
