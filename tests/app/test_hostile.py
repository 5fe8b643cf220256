"""Names in data are text: in pages, figures, downloads and reports they never act as markup or formulas."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from app import data, grid, report
from nba import tables
from nba.history import History

VIEWS = Path(data.__file__).parent / "views"
PAGES = sorted(path.stem for path in VIEWS.glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def hostile(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace with names in its data that are formulas, HTML and Markdown."""
    root = shutil.copytree(workspace, tmp_path_factory.mktemp("hostile") / "shop")
    history = History.read(root)
    made = {}
    for name, columns in HOSTILE.items():
        rows = history.table(name).to_pylist()
        changed = [
            row | {c: f"{NASTY}{row[c]}" for c in columns if row[c] not in KEPT}
            if row.get("measure", "path") == "path"
            else row
            for row in rows
        ]
        made[name] = tables.BY_NAME[name].build(changed)
    history.commit(replace=made)
    return root


NASTY = "=1+1<b>[x](javascript:alert(1))"
KEPT = ("all", "none", None)
HOSTILE = {
    "summary_segments": ("segment", "action_id"),
    "summary_mix": ("treatment_id", "action_id"),
    "summary_arbitration": ("treatment_id",),
    "summary_removed": ("treatment_id", "reason"),
    "summary_credit_parts": ("treatment_id", "audience", "campaign"),
    "path_statistics": ("item",),
    "clv_groups": ("item",),
    "value_finder": ("segment",),
    "summary_sources": ("source",),
    "summary_quarantine": ("source", "reason"),
    "summary_importance": ("feature",),
    "summary_checks": ("subject",),
    "summary_alerts": ("subject",),
    "summary_examples": ("treatment_id",),
    "choices": ("treatment_id",),
    "decisions": ("treatment_id", "policy_id"),
    "looks": ("arm",),
    "readouts": ("reason",),
}


def strings(spec: object, name: str = "") -> list[str]:
    """All texts of a figure but the templates of its hover boxes."""
    if isinstance(spec, str):
        return [] if name in ("hovertemplate", "texttemplate") else [spec]
    pairs = spec.items() if isinstance(spec, dict) else [(name, x) for x in spec or ()] \
        if isinstance(spec, list) else []  # fmt: skip
    return [text for key, part in pairs for text in strings(part, key)]


VIEWED = [(page, "") for page in PAGES] + [("clv", "groups"), ("models", "why"), ("attribution", "paths")]


@pytest.mark.parametrize(("page", "view"), VIEWED)
def test_names_in_data_never_act(show, hostile, page, view, words) -> None:
    app = show(hostile, page, **({"view": view} if view else {}))
    assert not app.exception
    assert not app.error
    assert "[x](" not in words(app)
    for chart in app.get("plotly_chart"):
        assert not [text for text in strings(json.loads(chart.proto.spec)) if "<b>" in text]


def test_a_download_holds_no_formula_and_numbers_as_they_are() -> None:
    given = pa.table({"name": ["=1+1", "@x", "-2", "plain", None], "n": [-1.0, 2.0, 3.0, 4.0, 5.0]})
    lines = grid._csv(given).decode().splitlines()
    assert lines[1:4] == ['"\'=1+1",-1', '"\'@x",2', '"\'-2",3']
    assert lines[4] == '"plain",4'


def test_the_report_of_an_experiment_holds_data_as_text(show, workspace, monkeypatch) -> None:
    bad = "</script><img src=x onerror=alert(1)>"
    reader = data.read(workspace)
    rows, looks = (
        [row | {"arm": bad} if row["arm"] == "policy" else row for row in reader.rows(name)]
        for name in ("summary_effects", "looks")
    )
    found = {"summary_effects": tables.SUMMARY_EFFECTS.build(rows), "looks": tables.LOOKS.build(looks)}
    monkeypatch.setattr(data.Reader, "table", lambda _, name: found.get(name, tables.READOUTS.empty()))
    monkeypatch.setattr(data.Reader, "moment", lambda *_: None)
    text = report.build(reader, "policy")
    assert "onerror" in text
    assert bad not in text
    assert "<img" not in text
