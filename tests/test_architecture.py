import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = Path(sys.executable).with_name("lint-imports")

# by hand


def _copy(folder: Path) -> Path:
    for name in ("nba", "pipelines", "app"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # The copies shadow the installed package, since the working directory comes first.
    return subprocess.run(
        [str(LINT), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": "."},
    )


PLANTED = [
    ("nba/policy/explore.py", "import nba.models.scorer", "nba.policy.explore -> nba.models.scorer"),
    ("nba/tables/fields.py", "import nba.history", ".tables -> .history"),
    ("nba/stats.py", "import streamlit", "nba.stats -> streamlit"),
    ("nba/serving/decide.py", "import mlflow", "nba.serving.decide -> mlflow"),
    ("nba/models/response.py", "import optuna", "nba.models.response -> optuna"),
    ("nba/models/scorer.py", "import shap", "nba.models.scorer -> shap"),
    ("app/Home.py", "import pipelines.cli", "app.Home -> pipelines.cli"),
    ("pipelines/train.py", "import nba.histories.simulated", "pipelines.train -> nba.histories.simulated"),
]


@pytest.mark.parametrize(("file", "line", "named"), PLANTED)
def test_a_planted_import_is_reported(tmp_path: Path, file: str, line: str, named: str) -> None:
    folder = _copy(tmp_path)
    path = folder / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    found = _lint(folder)
    assert found.returncode != 0
    assert named in found.stdout


def test_an_unlisted_module_is_reported(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    (folder / "nba" / "misc.py").write_text('"""A drawer."""\n')
    found = _lint(folder)
    assert found.returncode != 0
    assert "misc" in found.stdout


def test_the_base_imports_without_extras() -> None:
    # Extras (dev, browser) must not be needed to import any part of the library or the command.
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {"playwright", "hypothesis", "pytest", "pyspark", "splink", "psycopg", "nbformat"}
    assert extras
    code = (
        "import sys, pkgutil, importlib\n"
        f"class Stop:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {names!r}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "import nba, pipelines\n"
        "for p in (nba, pipelines):\n"
        "    for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.'):\n"
        "        importlib.import_module(m.name)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr[-2000:]


def test_the_lock_names_no_index_and_holds_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "index-url" not in lock
    pins = [line for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))]
    assert len(pins) > 100
    assert lock.count("--hash=sha256:") >= len(pins)
