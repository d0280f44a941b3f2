"""Whatever stands in a dataset.yaml, a bundle or a mask: a clear error or the right result.

A few hundred examples of each by default, the same in each run, so that a change is what makes them
fail; ``HYPOTHESIS_PROFILE=explore`` tries 10,000 new ones, and what fails there becomes an example.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from search.predicting.submission import run_lengths
from segcore.config import IGNORE_INDEX, TrialConfig
from segcore.data.dataset import scan_dataset
from segcore.data.prepared import PreparedData
from segcore.data.spec import DatasetSpec, load_spec
from segcore.errors import UserError
from segcore.predicting.ensemble import Ensemble, read_manifest, write_bundle
from segcore.training.fit import fit
from tests.test_submission import paint

CPU = torch.device("cpu")

# The fixtures' folders are shared on purpose: each example writes its file anew.
for name, examples in (("default", 300), ("explore", 10_000)):
    settings.register_profile(
        name,
        max_examples=examples,
        derandomize=name == "default",
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
pytestmark = [pytest.mark.timeout(3000), pytest.mark.usefixtures("one_thread")]

# What people write and what breaks parsers; sizes stay small, for networks are built from them.
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**25, 1e308, 5e-324, 0.15, 0.5, -0.0]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "{stem}", "{folder}/{stem}.png", "#FF0000", "#ff00zz", "\x00", "~", "../x",
                     "*", "images/*.png", "(", "^(a)", "member_00", "/etc", "ce", "NaN"]),
)  # fmt: skip
SCALARS = PLAIN | st.dates()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4),
    max_leaves=8,
)
JSON = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)

SPEC: dict[str, Any] = {
    "images": "images/*.png",
    "masks": "masks/{stem}.png",
    "classes": {"Land": 0, "Roof": 7, "Pool": 9},
    "ignore_index": 255,
    "group": "^(a|b)",
    "colors": {"Roof": "#3C1098"},
    "split": {"val": 0.3, "test": ["c"], "seed": 1},
}


@st.composite
def mutated(draw: st.DrawFn, original: Any, values: st.SearchStrategy[Any]) -> Any:
    """A nested value with a few of its parts replaced, removed or added."""
    changed = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        place, keys = changed, []
        while isinstance(place, dict | list) and place and (not keys or draw(st.booleans())):
            at = draw(st.sampled_from(sorted(place, key=str) if isinstance(place, dict)
                                      else range(len(place))))  # fmt: skip
            keys.append((place, at))
            place = place[at]
        if not keys:
            return draw(values)
        parent, at = keys[-1]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[at] = draw(values)
            case "remove":
                del parent[at]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(max_size=8))] = draw(values)
            case "add":
                parent.append(draw(values))
    return changed


@st.composite
def damaged(draw: st.DrawFn, content: bytes, within: int | None = None) -> bytes:
    """Bytes cut off, overwritten, repeated or inserted, in the first ``within``."""
    place = draw(st.integers(0, min(len(content), within or len(content)) - 1))
    noise = draw(st.binary(min_size=1, max_size=8))
    match draw(st.sampled_from(["cut", "overwrite", "insert", "repeat", "remove"])):
        case "cut":
            return content[:place]
        case "overwrite":
            return content[:place] + noise + content[place + len(noise) :]
        case "insert":
            return content[:place] + noise + content[place:]
        case "repeat":
            return content[:place] + content[max(0, place - 30) :]
    return content[:place] + content[place + len(noise) :]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
        for stem in ("a1", "a2", "b", "c"):
            (folder / kind / f"{stem}.png").touch()
    return folder


YAML = st.one_of(
    mutated(SPEC, VALUES).map(lambda values: yaml.safe_dump(values).encode()),
    damaged(yaml.safe_dump(SPEC).encode()),
    VALUES.map(lambda values: yaml.safe_dump(values).encode()),
    st.text(alphabet="imagesk:{}[]#&*!|>-?,'\"\\\n\t 01", max_size=60).map(str.encode),
    st.binary(max_size=40),
)


@given(content=YAML)
@example(content=yaml.safe_dump(SPEC | {"images": []}).encode())
@example(content=yaml.safe_dump(SPEC | {"images": ""}).encode())
def test_a_dataset_yaml_is_right_or_its_error_is_told(dataset: Path, content: bytes) -> None:
    (dataset / "dataset.yaml").write_bytes(content)
    try:
        spec = load_spec(dataset / "dataset.yaml")
    except UserError as error:
        assert "dataset.yaml" in str(error)
        return
    check_spec(spec)
    if ".." not in str(spec.images):  # those would look through the disk of whoever runs this
        found, problems = scan_dataset(dataset)
        assert found.photos or problems or isinstance(spec.split.train, list | str)
        assert all(photo.mask_path.is_file() for photo in found.photos)


def check_spec(spec: DatasetSpec) -> None:
    names = spec.class_names
    assert 2 <= len(names) == len(set(names)) == len(spec.class_colors) <= 255
    assert all(isinstance(name, str) and name.strip() for name in names)
    assert all(0 <= part <= 255 for color in spec.class_colors for part in color)
    values = [value for value, _ in spec.coding.classes]
    assert len(values) == len(set(values)), "a value has two meanings"
    assert {k for _, k in spec.coding.classes} - {IGNORE_INDEX} == set(range(len(names)))
    assert all(0 <= value < (1 << 24 if spec.by_color else 1 << 8) for value in values)
    assert not isinstance(spec.masks, str) or "{stem}" in spec.masks
    assert sum(spec.split.fractions.values()) < 1
    assert DatasetSpec.model_validate(spec.model_dump(exclude_none=True)) == spec


@pytest.fixture(scope="module")
def whole_bundle(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    config = TrialConfig(
        height_px=48, width_px=48, architecture="scratch_unet", encoder=None,
        model_kwargs={"base_channels": 2, "depth": 1}, batch_size=4, max_epochs=1,
    )  # fmt: skip
    next(fit(config, data, device=CPU)).save(folder / "trial")
    members = [(folder / "trial", 0.75), (folder / "trial", 0.25)]
    write_bundle(folder / "whole", members, metric="dice", scores={"test": 0.5})
    return folder / "whole"


FILES = ("bundle.json", "member_00/checkpoint.json", "member_01/checkpoint.json",
         "member_00/model.safetensors")  # fmt: skip


@given(random_=st.data(), name=st.sampled_from(FILES))
def test_a_bundle_predicts_or_is_refused(
    whole_bundle: Path, random_: st.DataObject, name: str
) -> None:
    content = (whole_bundle / name).read_bytes()
    if name.endswith(".json") and random_.draw(st.booleans()):
        values = random_.draw(mutated(json.loads(content), JSON))
        changed = json.dumps(values).encode()
    elif name.endswith(".json"):
        changed = random_.draw(damaged(content))
    else:
        # Of the tensors' values every one is a possible one; the header says what they are.
        header = 8 + int.from_bytes(content[:8], "little")
        changed = random_.draw(damaged(content, within=header))
    bundle = whole_bundle.with_name("changed")
    shutil.copytree(whole_bundle, bundle, dirs_exist_ok=True)
    (bundle / name).write_bytes(changed)
    if name.endswith(".safetensors") and random_.draw(st.booleans()):
        # Of an older version, which kept no hash: the header is all there is to see.
        older = json.loads((bundle / "member_00/checkpoint.json").read_text())
        del older["model_sha256"]
        (bundle / "member_00/checkpoint.json").write_text(json.dumps(older))
    try:
        manifest = read_manifest(bundle)
        ensemble = Ensemble.load(bundle, CPU)
    except UserError as error:
        assert str(error)
        return
    assert len(manifest["members"]) == len(ensemble.members) >= 1
    weights = [member.weight for member in ensemble.members]
    assert sum(weights) == pytest.approx(1) and min(weights) >= 0
    classes = len(ensemble.class_names)
    assert classes == len(ensemble.class_colors) == 3
    assert all(isinstance(name, str) for name in ensemble.class_names)
    assert all(0 <= part <= 255 for color in ensemble.class_colors for part in color)
    for member in ensemble.members:
        with torch.inference_mode():
            logits_NKHW = member.network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        assert logits_NKHW.shape == (1, classes, 32, 32)


MASKS = st.one_of(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40),
                  elements=st.integers(0, 25)),
    st.builds(
        lambda seed, rows, columns, classes: np.random.default_rng(seed)
        .integers(0, classes, (rows, columns)).astype(np.uint8),
        st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 80), st.integers(1, 26),
    ),
)  # fmt: skip


@given(MASKS)
def test_run_lengths_paint_the_mask_again(mask: np.ndarray) -> None:
    runs = run_lengths(mask, 26)
    assert len(runs) == 26
    assert (paint(runs, mask.shape) == mask).all()
    for text in runs:
        numbers = [int(number) for number in text.split()]
        starts, lengths = numbers[::2], numbers[1::2]
        assert all(length > 0 for length in lengths)
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        # Ascending, and no two runs that should be one.
        assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
