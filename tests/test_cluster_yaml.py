"""cluster.yaml, and the documents' variants of it, pass Ray's own checks, without a cloud."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parents[1]


def variant(name: str, **provider: object) -> dict[str, Any]:
    """cluster.yaml with provider, auth and node types replaced, as docs/how-to/cluster.md says."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    if name == "aws":
        return config
    marker = f"```yaml\n# cluster.yaml for {name}"
    page = (PROJECT / "docs" / "how-to" / "cluster.md").read_text()
    assert marker in page
    changes = yaml.safe_load(page.partition(marker)[2].partition("\n")[2].partition("```")[0])
    for key in ("provider", "auth", "available_node_types", "head_node_type", "max_workers"):
        config.pop(key, None)
    config |= changes
    config["provider"] |= provider
    return config


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
def test_ray_accepts_it(name: str) -> None:
    validate_config(prepare_config(variant(name)))


def test_ray_refuses_a_misspelled_key() -> None:
    config = variant("aws") | {"file_mount": {}}
    with pytest.raises(Exception, match="file_mount"):
        validate_config(prepare_config(config))


def test_everything_that_a_user_must_change_is_marked_and_nothing_is_open_to_the_world() -> None:
    text = (PROJECT / "cluster.yaml").read_text()
    for word in ("region:", "my-bucket", "ami-", "123456789012", "max_workers"):
        lines = text.splitlines()
        for index, line in enumerate(lines):
            if word in line and not line.strip().startswith("#"):
                around = "\n".join(lines[max(0, index - 4) : index + 1])
                assert "CHANGE" in around or "&image" in text, line
    assert "0.0.0.0" not in text
    assert "--host 127.0.0.1" in text
