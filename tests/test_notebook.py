"""The example notebook runs from its first cell to its last one, and shows what it says."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_search.ipynb"


def cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_no_output_of_somebodys_machine_is_kept() -> None:
    for cell in cells(json.loads(NOTEBOOK.read_text())):
        assert not cell["outputs"] and cell["execution_count"] is None


@pytest.mark.slow
def test_it_runs_and_shows_pictures_and_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(NOTEBOOK.parents[1]), *filter(None, sys.path)]))
    notebook = nbformat.read(shutil.copy(NOTEBOOK, tmp_path), as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) >= 6
    assert "checking the space" in str(shown), "and nothing of Ray's has cleared the cell"
    bars = [data["text/html"] for data in shown if "<progress" in data.get("text/html", "")]
    assert len(bars) == 2 and all("done after" in bar for bar in bars)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert (tmp_path / "first_search/runs/quick/report.html").is_file()
