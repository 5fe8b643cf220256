"""Fixtures of the app's tests: a small workspace, and a page of the app shown on it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Header
from streamlit.util import calc_hash

from tests.app.shop import make, record

HOME = Path(__file__).parents[2] / "app" / "Home.py"


def figures(app: AppTest) -> int:
    """How many figures a page shows."""
    return len(app.get("plotly_chart"))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled workspace with an empty one beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("workspaces")
    make(folder / "bare", filled=False)
    return make(folder / "shop")


@pytest.fixture
def recorded() -> Callable[[Path, str, str], None]:
    """Write the record of a run: workspace, its name, how its last step ended."""
    return record


@pytest.fixture
def fresh(workspace: Path, tmp_path: Path) -> Callable[..., Path]:
    """Give a workspace that a test may change: a copy of the filled one, or of the empty one."""

    def copied(*, filled: bool = True) -> Path:
        return shutil.copytree(workspace if filled else workspace.parent / "bare", tmp_path / "fresh")

    return copied


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Open a page of the app on a workspace, as a link to it does."""

    def opened(root: Path, page: str = "overview", **query: str) -> AppTest:
        monkeypatch.setenv("NBA_WORKSPACE", str(root))
        app = AppTest.from_file(str(HOME), default_timeout=30)
        for name, value in query.items():
            app.query_params[name] = value
        if page != "overview":
            # `switch_page` knows the pages of `st.navigation` only after a run, which would draw the
            # first page before each other one.
            app._page_hash = calc_hash(page)
        return app.run()

    return opened


@pytest.fixture(scope="session")
def numbers() -> Callable[[AppTest], dict[str, str]]:
    """Read the single numbers of a page, as they look, by their titles."""

    def read(app: AppTest) -> dict[str, str]:
        titles = {}
        for element in app.main:
            if element.type == "markdown":
                title = element.value.removeprefix(":small[").removesuffix("]")
            elif isinstance(element, Header):
                titles[title] = re.sub(r"\\(.)", r"\1", element.value)
        return titles

    return read


@pytest.fixture(scope="session")
def words(numbers: Callable[[AppTest], dict[str, str]]) -> Callable[[AppTest], str]:
    """Gather all that a page says."""

    def said(app: AppTest) -> str:
        kinds = (app.title, app.subheader, app.markdown, app.caption, app.info, app.warning, app.error)
        texts = [element.value for kind in kinds for element in kind]
        return "\n".join([*texts, *(f"{title}: {value}" for title, value in numbers(app).items())])

    return said
