"""
The notebooks of examples/notebooks: kept without outputs, and run from their first cell to their last by nbclient
(`make test-notebooks`), where they show pictures and tables.
"""

import json
import os
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "notebooks"
# what a notebook has to have shown, by the type of the output
SHOWN = {
    "ask_a_video": {"text/html", "video/mp4"},
    "own_clips_to_hub": {"text/html"},
    "what_does_it_look_at": {"text/html", "image/png"},
}


def test_every_notebook_is_known_and_kept_without_outputs():
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.ipynb")}
    assert set(found) == set(SHOWN)
    for notebook in found.values():
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.notebook
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_notebook_runs_to_its_end_and_shows_something(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert SHOWN[name] - kinds - ({"video/mp4"} if "<video" in str(outputs) else set()) == set()
    # what is told in a line of text beside it is short
    assert max(len(str(output.get("data", {}).get("text/plain", ""))) for output in outputs) < 2000
