"""The notebook in docs/ runs unchanged in an empty folder and writes the files that it promises."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
nbclient = pytest.importorskip("nbclient", reason="needs nbclient (pip install nbclient ipykernel)")
nbformat = pytest.importorskip("nbformat", reason="needs nbformat (pip install nbclient ipykernel)")
pytest.importorskip("ipykernel", reason="needs ipykernel (pip install ipykernel)")


@pytest.mark.slow
def test_the_notebook_trains_compares_reports_and_searches(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, resources=resources, timeout=300).execute()  # raises the error of a failed cell
    folder = tmp_path / "runs" / "notebook"
    for run in ("fixed", "mm-ts"):
        metrics = json.loads((folder / run / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["text_to_image"]["R@5"] > 50  # chance: 5 of 60 pictures, some of which look alike
    assert "mm-ts" in (folder / "report.html").read_text(encoding="utf-8")
    *_, search, drawing = (cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "1  0." in search[-1]["text"]
    assert "red" in search[-1]["text"].splitlines()[0]
    assert "image/png" in drawing[-1]["data"]


def test_the_notebook_is_committed_without_outputs() -> None:
    code = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
