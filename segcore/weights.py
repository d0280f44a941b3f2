"""python -m segcore.weights --encoder NAME: fetches weights for machines without network."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segcore.arguments import read_arguments
from segcore.errors import UserError


@dataclass(frozen=True)
class WeightsOptions:
    """Fetch one encoder's pretrained weights, to be copied to a machine without network."""

    encoder: str
    """Its name, as smp has it, such as resnet34 or tu-convnext_tiny."""
    encoder_weights: str = "imagenet"
    """What the encoder was trained on: imagenet, or another name that smp has."""
    architecture: str = "unet"
    """Only dpt makes a difference: in it an encoder's parameters have other names."""
    weights_dir: Path = Path()
    """The folder to put the file into."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m segcore.weights") -> int:
    """Fetch the weights, print their file, and return the exit code: 0 done, 1 not."""
    options = read_arguments(WeightsOptions, arguments, prog)
    # Imported here: torch takes seconds, and --help needs none of them.
    from segcore.config import TrialConfig
    from segcore.networks.weights import encoder_weights_file

    config = TrialConfig(
        architecture=options.architecture,
        encoder=options.encoder,
        encoder_weights=options.encoder_weights,
    )
    try:
        sys.stdout.write(f"{encoder_weights_file(config, options.weights_dir)}\n")
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
