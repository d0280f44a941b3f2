"""The device that is chosen, with and without CUDA and Metal."""

import pytest
import torch

from segcore.devices import amp_dtype, autocast, choose_device
from segcore.errors import UserError


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
def test_without_cuda_metal_is_chosen_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.backends.mps.is_available()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    if real:
        assert choose_device().type == "mps"
    else:  # This torch was built without Metal: the error shows what was chosen.
        with pytest.raises(UserError, match="device 'mps' can't be used"):
            choose_device()


@pytest.mark.usefixtures("no_cuda")
def test_without_cuda_and_metal_the_cpu_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")


def test_a_named_device_is_taken_or_refused_with_those_that_are_allowed() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("cuda:77", "gpu"):
        with pytest.raises(UserError, match=f"device '{name}' can't be used.*allowed: cpu, cuda"):
            choose_device(name)


@pytest.mark.parametrize(("computes_it", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16(
    monkeypatch: pytest.MonkeyPatch, computes_it: bool, dtype: torch.dtype
) -> None:
    """By default torch says that Turing (T4) and Volta support it, too."""

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return computes_it or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert amp_dtype(torch.device("cuda")) is dtype


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_cpu_and_metal_compute_in_full_precision(kind: str) -> None:
    device = torch.device(kind)
    assert amp_dtype(device) is None
    with autocast(device):
        assert not torch.is_autocast_enabled(kind)
