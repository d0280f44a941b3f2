"""A mean of weights is a network again, where its ingredients allow."""

import pytest
import torch
from torch import nn

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
    def state(value: float) -> dict[str, torch.Tensor]:
        return {"weight": torch.tensor([value])}

    def closeness(soup: dict[str, torch.Tensor]) -> tuple[float, float]:
        return -abs(float(soup["weight"]) - 1.0), float(soup["weight"])

    # Best first: 0.8 alone; 1.3 brings the mean to 1.05; 9 would spoil it; 0.85 mends it to 0.98.
    kept, path = greedy_soup([state(0.8), state(1.3), state(9.0), state(0.85)], closeness)
    assert kept == (0, 1, 3)
    assert path == pytest.approx([0.8, 1.05, 0.98], abs=0.01)
    assert greedy_soup([state(1.0), state(5.0)], closeness) == ((0,), [1.0])


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
