"""Networks: every architecture at any size, normalised with its encoder's statistics."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.networks.models import MODELS, SegmentationNetwork, build_network, check_network
from segcore.networks.unet import ScratchUNet
from segcore.networks.weights import Statistics
from segcore.reading.bands import Bands

HALF = Statistics((0.5,) * 3, (0.5,) * 3)
ENCODERS = {
    **dict.fromkeys(smp.MODEL_ARCHITECTURES_MAPPING, "resnet18"),
    "dpt": "tu-vit_tiny_patch16_224",
    "segformer": "mit_b0",
    "scratch_unet": None,
}


def random_image(height_px: int, width_px: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, height_px, width_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def echo(num_classes: int) -> nn.Module:
    """A user's own network whose logits are its input: what a network sees can be looked at."""
    return nn.Identity()


class SixteenFold(nn.Module):
    """A user's own network that takes only multiples of 16, and has an encoder."""

    size_multiple = 16

    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 16, stride=16)
        self.decoder = nn.ConvTranspose2d(width, num_classes, 16, stride=16)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        if image_NCHW.shape[-1] % 16:
            raise ValueError("not a multiple of 16")
        logits_NKHW: Tensor = self.decoder(self.encoder(image_NCHW))
        return logits_NKHW


def any_bands(num_classes: int, in_channels: int) -> nn.Module:
    """A user's own network for as many channels as the data have."""
    return nn.Conv2d(in_channels, num_classes, 1)


def without_classes() -> nn.Module:
    return nn.Identity()


def no_network(num_classes: int) -> str:
    return "network"


def own(name: str, **kwargs: object) -> TrialConfig:
    values = {"architecture": f"{__name__}:{name}", "encoder": None, **kwargs}
    return TrialConfig.from_dict(values)


def test_all_architectures_of_smp_and_the_scratch_unet_have_a_name() -> None:
    assert set(MODELS) == {
        *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3"),
        *("deeplabv3plus", "pan", "upernet", "segformer", "dpt", "scratch_unet"),
    }


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_have_the_images_size_whatever_that_is(architecture: str) -> None:
    config = TrialConfig(architecture=architecture, encoder=ENCODERS[architecture])
    network = build_network(config, num_classes=4).eval()
    with torch.inference_mode():
        logits_NKHW = network(random_image(61, 101))
    assert logits_NKHW.shape == (1, 4, 61, 101)
    assert logits_NKHW.isfinite().all()


@pytest.mark.parametrize("architecture", MODELS)
def test_every_architecture_trains_at_the_competitions_size(architecture: str) -> None:
    config = TrialConfig(architecture=architecture, encoder=ENCODERS[architecture], batch_size=2)
    assert check_network(config, num_classes=25) > 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [
        *("resnet101", "efficientnet-b0", "mobilenet_v2", "mobileone_s0", "se_resnet50", "mit_b0"),
        *("vgg16_bn", "densenet121", "xception", "inceptionv4", "dpn68", "timm-efficientnet-b0"),
        *("tu-convnext_tiny", "tu-tf_efficientnet_lite0", "tu-swin_tiny_patch4_window7_224"),
        *("tu-vit_tiny_patch16_224", "tu-maxvit_tiny_tf_224", "tu-hrnet_w18_small", "tu-dla34"),
    ],
)
def test_whatever_can_be_built_takes_an_odd_size(encoder: str) -> None:
    takes = []
    for architecture in smp.MODEL_ARCHITECTURES_MAPPING:
        values = {"architecture": architecture, "encoder": encoder, "batch_size": 2}
        config = TrialConfig.from_dict({**values, "height_px": 97, "width_px": 131})
        try:
            check_network(config, num_classes=3)
        except UserError as error:
            assert "can't have encoder" in str(error), error
        else:
            takes.append(architecture)
    assert takes


def test_the_network_sees_the_image_with_its_statistics() -> None:
    image_NCHW = random_image(32, 32)
    network = SegmentationNetwork(nn.Identity(), HALF)
    assert torch.equal(network(image_NCHW), (image_NCHW.float() / 255 - 0.5) / 0.5)
    assert torch.equal(network(image_NCHW.float()), network(image_NCHW))


def test_each_encoder_brings_its_own_statistics() -> None:
    means = {
        encoder: build_network(TrialConfig(encoder=encoder), 2).mean_C11.flatten().tolist()
        for encoder in ("tu-tf_efficientnet_lite0", "mobilenet_v2")
    }
    assert means["tu-tf_efficientnet_lite0"] == [0.5, 0.5, 0.5]
    assert means["mobilenet_v2"] == pytest.approx([0.485, 0.456, 0.406])


def test_weights_and_statistics_come_from_the_file_and_go_into_checkpoints(tmp_path: Path) -> None:
    encoder = smp.encoders.get_encoder("resnet18", weights=None)
    path = tmp_path / "weights.safetensors"
    save_file(encoder.state_dict(), path, metadata={"mean": "[0.1,0.2,0.3]", "std": "[1,2,3]"})
    network = build_network(TrialConfig(encoder="resnet18", encoder_weights=str(path)), 2)
    state = network.state_dict()
    assert torch.equal(state["network.encoder.conv1.weight"], encoder.conv1.weight)
    assert state["mean_C11"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert state["std_C11"].flatten().tolist() == [1, 2, 3]


def test_a_padded_image_gives_the_cropped_logits() -> None:
    config = TrialConfig(architecture="fpn", encoder="resnet18")
    network = build_network(config, num_classes=2).eval()
    image_NCHW = random_image(40, 70)
    x_NCHW = (image_NCHW / 255 - network.mean_C11) / network.std_C11
    padded_NCHW = torch.zeros(1, 3, 64, 96)
    padded_NCHW[..., :40, :70] = x_NCHW
    with torch.inference_mode():
        wanted_NKHW = network.network(padded_NCHW)[..., :40, :70]
        assert torch.allclose(network(image_NCHW), wanted_NKHW, atol=1e-5)


def test_the_unet_of_smps_encoders_is_not_padded() -> None:
    network = build_network(TrialConfig(encoder="resnet18"), num_classes=2)
    assert network.size_multiple == 1


@pytest.mark.parametrize(
    ("architecture", "encoder", "kwargs", "multiple"),
    [
        ("pspnet", "tu-mobilenetv3_small_050", {}, 32),  # uses three of the encoder's five stages
        ("deeplabv3", "tu-resnet10t", {}, 8),
        ("deeplabv3plus", "tu-resnet10t", {}, 16),
        ("pan", "tu-resnet10t", {"encoder_output_stride": 32}, 32),
    ],
)
def test_an_encoder_of_timm_gets_multiples_of_its_full_stride(
    architecture: str, encoder: str, kwargs: dict[str, int], multiple: int
) -> None:
    values = {"architecture": architecture, "encoder": encoder, "model_kwargs": kwargs}
    assert build_network(TrialConfig.from_dict(values), 2).size_multiple == multiple


def test_parameters_are_the_encoders_or_others_and_none_is_lost() -> None:
    network = build_network(TrialConfig(encoder="resnet18"), num_classes=2)
    assert isinstance(network.network, smp.Unet)
    encoder = {id(p) for p in network.encoder_parameters()}
    others = {id(p) for p in network.other_parameters()}
    assert encoder == {id(p) for p in network.network.encoder.parameters()}
    assert not encoder & others
    assert encoder | others == {id(p) for p in network.parameters()}


def test_the_scratch_unet_is_the_papers() -> None:
    network = ScratchUNet(num_classes=2, base_channels=64, depth=4)
    # Figure 1 for a colour image: 23 convolutions, four of them upward; weights summed by hand.
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convolutions) == 23
    assert sum(m.weight.numel() for m in convolutions) == 31_024_960
    config = TrialConfig(architecture="scratch_unet", encoder=None, model_kwargs={"depth": 2})
    built = build_network(config, num_classes=2)
    assert built.encoder_parameters() == []
    assert built.size_multiple == 4


def test_a_users_own_network_is_padded_to_its_size_multiple_and_split_at_its_encoder() -> None:
    config = own("SixteenFold", model_kwargs={"width": 8})
    network = build_network(config, num_classes=5)
    assert network(random_image(33, 47)).shape == (1, 5, 33, 47)
    assert len(network.encoder_parameters()) == len(network.other_parameters()) == 2
    assert check_network(config, 5) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            own("echo"),
            r"gives \(8, 3, 368, 368\) for images \(8, 3, 368, 368\); wanted .*8, 4, 368",
        ),
        (own("without_classes"), r"unexpected keyword argument 'num_classes'.*takes num_classes"),
        (own("no_network"), r"returned str.*torch\.nn\.Module"),
        (own("SixteenFold", encoder="resnet18"), r"no encoder to choose; set encoder=None"),
        (own("SixteenFold", model_kwargs={"depth": 1}), r"'depth': 1.*unexpected keyword"),
        (TrialConfig(architecture="unett"), r"unknown architecture 'unett'.*unet"),
        (TrialConfig(encoder="resnet35"), r"unknown encoder 'resnet35'.*resnet34"),
        (TrialConfig(encoder="tu-resnet18.none"), r"unknown encoder 'tu-resnet18.none'"),
        (TrialConfig(encoder=None), r"needs an encoder, such as resnet34"),
        (TrialConfig(architecture="scratch_unet"), r"set encoder=None, not 'resnet34'"),
        (
            TrialConfig(model_kwargs={"dropout": 0.1}),
            r"takes no model_kwargs dropout; .*encoder_depth",
        ),
        (TrialConfig(model_kwargs={"activation": "softmax"}), r"takes no model_kwargs activation"),
        (TrialConfig(model_kwargs={"encoder_depth": 9}), r"can't take {'encoder_depth': 9}"),
    ],
)
def test_what_can_not_be_built_is_refused_with_the_way_out(config: TrialConfig, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_network(config, num_classes=4)


def test_an_encoder_that_does_not_fit_names_what_does() -> None:
    config = TrialConfig(architecture="deeplabv3plus", encoder="vgg11_bn")
    with pytest.raises(UserError) as caught:
        check_network(config, num_classes=4)
    architectures, encoders = (
        str(caught.value).split("Architectures for this encoder: ")[1].split(". ")
    )
    assert "unet" in architectures.split(", ")
    assert "deeplabv3" not in architectures.split(", ")
    assert "resnet34" in encoders


@pytest.mark.parametrize("architecture", ["deeplabv3", "deeplabv3plus", "pan", "upernet"])
def test_pooling_branches_refuse_batches_of_one(architecture: str) -> None:
    values = {"architecture": architecture, "encoder": "resnet18", "height_px": 64, "width_px": 64}
    config = TrialConfig.from_dict({**values, "batch_size": 1})
    with pytest.raises(UserError, match=r"batches of 1.*batch_size 2 or more"):
        check_network(config, num_classes=4)
    check_network(TrialConfig.from_dict({**values, "batch_size": 2}), num_classes=4)


def test_encoder_weights_by_name_need_a_folder() -> None:
    with pytest.raises(ValueError, match="weights_dir"):
        build_network(TrialConfig(encoder_weights="imagenet"), num_classes=2)


def bands_of(count: int, **measured: Any) -> Bands:
    return Bands(tuple(range(1, count + 1)), **measured)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unet", "resnet18"), ("unet", "mit_b0"), ("fpn", "mobileone_s0"), ("unet", "densenet121"),
        ("unet", "timm-efficientnet-b0"), ("unet", "tu-mobilenetv3_small_050"),
        ("dpt", "tu-vit_tiny_patch16_224"), ("scratch_unet", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 4, 16])
def test_networks_take_one_to_sixteen_channels(
    architecture: str, encoder: str | None, channels: int
) -> None:
    config = TrialConfig(
        architecture=architecture, encoder=encoder, height_px=64, width_px=64, batch_size=2
    )
    assert check_network(config, 5, bands_of(channels)) > 0
    assert build_network(config, 5, bands_of(channels)).mean_C11.shape == (channels, 1, 1)


def test_red_green_and_blue_keep_the_encoders_statistics_and_others_get_the_datas() -> None:
    bands = bands_of(
        4, colors=(None, 0, 1, 2), mean=(0.11, 0.2, 0.2, 0.2), std=(0.07, 0.1, 0.1, 0.1)
    )
    network = build_network(TrialConfig(encoder="resnet18"), 2, bands)
    assert network.mean_C11.flatten().tolist() == pytest.approx([0.11, 0.485, 0.456, 0.406])
    assert network.std_C11.flatten().tolist() == pytest.approx([0.07, 0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [
        *itertools.product(["resnet18", "tu-mobilenetv3_small_050"], [1, 2, 4, 7]),
        ("mobileone_s0", 4),  # whose first layers are several side by side; it takes long to make
    ],
)
def test_pretrained_weights_are_kept_as_smp_keeps_them(
    tmp_path: Path, encoder: str, channels: int
) -> None:
    pretrained = smp.encoders.get_encoder(encoder, weights=None)
    path = tmp_path / "weights.safetensors"
    save_file(pretrained.state_dict(), path)
    config = TrialConfig(encoder=encoder, encoder_weights=str(path))
    built = build_network(config, 2, bands_of(channels)).get_submodule("network.encoder")
    if not encoder.startswith("tu-"):
        pretrained.set_in_channels(channels, pretrained=True)
    for name, wanted in pretrained.state_dict().items():
        found = built.state_dict()[name]
        if wanted.shape == found.shape:
            torch.testing.assert_close(found, wanted)
        else:  # timm's own encoders can't change; what they do is the same.
            assert found.shape[1] == channels
            scale = 1 if channels == 1 else 3 / channels
            filters = wanted.sum(1, keepdim=True) if channels == 1 else wanted * scale
            torch.testing.assert_close(found[:, 0], filters[:, 0])


@pytest.mark.parametrize(
    ("colors", "filters"),
    [
        ((2, 1, 0), (2, 1, 0)),
        ((None, 0, 1, 2), (0, 0, 1, 2)),
        ((2, 1, 0, None), (2, 1, 0, 0)),
        ((None, 0, 1), (0, 0, 1)),
    ],
)
def test_a_channel_of_a_known_colour_gets_that_colours_filters(
    tmp_path: Path, colors: tuple[int | None, ...], filters: tuple[int, ...]
) -> None:
    """Others get those that stand at their place, as smp and timm do it."""
    pretrained = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    save_file(pretrained, path := tmp_path / "weights.safetensors")
    config = TrialConfig(encoder="resnet18", encoder_weights=str(path))
    bands = bands_of(
        len(colors), colors=colors, mean=(0.5,) * len(colors), std=(0.2,) * len(colors)
    )
    built = build_network(config, 2, bands).get_submodule("network.encoder").state_dict()
    for name, tensor in pretrained.items():
        if name == "conv1.weight":
            tensor = tensor[:, list(filters)] * (3 / len(filters))
        torch.testing.assert_close(built[name], tensor)


def test_a_users_own_network_gets_the_number_of_channels_or_takes_only_rgb() -> None:
    assert build_network(own("any_bands"), 3, bands_of(5)).network.in_channels == 5
    assert build_network(own("any_bands"), 3).network.in_channels == 3
    with pytest.raises(UserError, match=r"takes only RGB, but the photographs have 5 channels"):
        build_network(own("SixteenFold"), 3, bands_of(5))
