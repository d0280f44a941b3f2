"""python -m segcore.weights --encoder NAME: fetches weights for machines without network."""

import sys
from pathlib import Path

import tyro

from segcore.config import TrialConfig
from segcore.errors import UserError
from segcore.networks.weights import encoder_weights_file


def main(
    encoder: str,
    encoder_weights: str = "imagenet",
    architecture: str = "unet",
    weights_dir: Path = Path(),
) -> None:
    """Fetch one encoder's pretrained weights, to be copied to a machine without network.

    Args:
        encoder: smp's name, such as resnet34 or tu-convnext_tiny.
        encoder_weights: what they were trained on; imagenet, or another name that smp has.
        architecture: only dpt matters: in it an encoder's parameters have other names.
        weights_dir: the folder to put the file into.
    """
    config = TrialConfig(
        architecture=architecture, encoder=encoder, encoder_weights=encoder_weights
    )
    print(encoder_weights_file(config, weights_dir))  # noqa: T201


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(str(error))
