"""The notebooks run from top to bottom, and are stored without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
SLOW = {"20_attribution"}
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def demo(request: pytest.FixtureRequest) -> Path:
    """The workspace to tour: the one in the environment, else a small demo."""
    given = os.environ.get("NBA_WORKSPACE")
    if given:
        return Path(given).absolute()
    demo: Path = request.getfixturevalue("small_demo")
    return demo


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem in SLOW and not os.environ.get("NBA_SLOW"):
        pytest.skip(f"{path.stem} simulates for a minute; `make notebooks` runs it")
    monkeypatch.setenv("NBA_WORKSPACE", str(demo))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= (10 if path.stem == "00_tour" else 2)
    if path.stem == "00_tour":
        assert notebook.cells[-1].outputs[0]["data"]["text/plain"] == "[]", "the workspace breaks a law"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_has_no_logic(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert cells
    for cell in cells:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert "def " not in cell.source
        assert "lambda" not in cell.source


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS][:1] == ["00_tour.ipynb"]
