"""How many independent units scores rest on: photographs, or groups of them."""

from collections.abc import Mapping

from segcore.facts import FEWEST_UNITS


def unit_notes(sizes: Mapping[str, tuple[int, int]]) -> list[str]:
    """On which splits the intervals of scores will be a guess: a sentence for each.

    ``sizes`` are the photographs and the units of each split.
    """
    cautions = {split: caution(*size) for split, size in sizes.items()}
    return [f"{split}: {sentence}" for split, sentence in cautions.items() if sentence]


def caution(photos: int | None, units: int) -> str | None:
    """That intervals over so few units are a guess; None where there are enough.

    Whether units are photographs or groups of them, ``photos`` tells; None: that isn't known.
    """
    if units >= FEWEST_UNITS:
        return None
    if photos is None:
        one = units == 1
        rest = "one photograph or group" if one else f"{units} independent photographs or groups"
    elif units == 1:
        rest = "one group of photographs" if photos > 1 else "one photograph"
    else:
        rest = f"{units} independent {'groups of photographs' if units < photos else 'photographs'}"
    return f"The intervals are a guess: they rest on {rest}, and {FEWEST_UNITS} are needed."
