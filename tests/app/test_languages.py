"""No mixed languages: every page and view in Spanish, read word by word against the English catalogue."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from app import data, figures, grid, messages, report
from app.messages import words as catalogue

VIEWS = [
    ("overview", ""),
    *(("experiments", view) for view in ("list", "plan")),
    *(("attribution", view) for view in ("credit", "cause", "paths")),
    *(("clv", view) for view in ("worth", "groups", "alive", "risk", "check")),
    *(("policy", view) for view in ("mix", "arbitration", "prices", "values", "ablations", "scenario")),
    ("decision", ""),
    ("value", ""),
    *(("models", view) for view in ("board", "quality", "why", "drift")),
    *(("health", view) for view in ("data", "people", "runs")),
]
# Nouns of the code that a figure or a note could let through.
CODE = {"logged", "events", "touches", "orders", "customers", "decisions", "outcomes", "features", "margin"}
# What the small workspace calls its own things, and words that are the same in both languages.
NAMES = {
    *("policy", "holdout", "random", "coffee", "repair", "offer", "free", "check", "store", "search"),
    *("shop", "nba", "toml", "csv", "bare", "trial", "champion", "new", "control", "crm", "cookie"),
    *("last", "touch", "doubly", "robust"),
    *("email", "mlflow", "nightly", "overview", "evaluate", "analyze", "scenario", "orders", "revenue"),
}
# What shows as it is; the values of other widgets are our own names, told by their options.
TEXTS = ("title", "header", "subheader", "markdown", "caption", "alert", "info", "warning", "error")
DRAWN = ("text", "name", "title", "ticktext", "categoryarray", "label", "hovertemplate", "x", "y")


def _drawn(part: Any, key: str = "") -> Iterator[str]:
    if isinstance(part, str):
        if key in DRAWN:
            yield re.sub(r"%?\{[^}]*\}|<[^>]*>", " ", part)
    elif isinstance(part, dict):
        for name, inner in part.items():
            if name != "template":
                yield from _drawn(inner, name)
    elif isinstance(part, list):
        for inner in part:
            yield from _drawn(inner, key)


def _said(app: AppTest) -> Iterator[str]:
    for one in app:
        found = [
            getattr(one, name, "") for name in ("label", "help", *(("value",) if one.type in TEXTS else ()))
        ]
        yield from (text for text in [*found, *getattr(one, "options", ())] if isinstance(text, str))
    for frame in app.dataframe:
        columns = json.loads(frame.proto.columns or "{}")
        yield from (str(c.get(name) or "") for c in columns.values() for name in ("label", "help"))
        for name in frame.value.select_dtypes(["object", "string"]):
            yield from (str(value) for value in frame.value[name])
    for figure in app.get("plotly_chart"):
        yield from _drawn(json.loads(figure.proto.spec))


def _left_to_the_browser(frame: Any) -> Iterator[str]:
    # Columns of numbers whose format follows the browser's language, or is English.
    for name, column in json.loads(frame.proto.columns or "{}").items():
        kind = column.get("type_config") or {}
        if kind.get("type") == "number" and kind.get("format") is not None:
            yield name


def _tokens(text: str) -> set[str]:
    plain = re.sub(r"`[^`]*`|{\w+}|\b\w*[_@/.]\w+\b|:small\[", " ", text)
    return set(re.findall(r"[a-záéíóúñü]+", plain.lower()))


# laws


@pytest.fixture(scope="module")
def english() -> set[str]:
    known = {code: set().union(*map(_tokens, catalogue(code).values())) for code in ("en", "es")}
    return (known["en"] - known["es"] | CODE) - NAMES


@pytest.mark.parametrize(("page", "view"), VIEWS)
def test_a_spanish_page_has_no_english_word(show, workspace, page, view, english) -> None:
    app = show(workspace, page, lang="es", **({"view": view} if view else {}))
    assert not app.exception
    mixed = {text: found for text in _said(app) if (found := _tokens(text) & english)}
    assert not mixed
    assert not [name for frame in app.dataframe for name in _left_to_the_browser(frame)]


def test_tables_write_numbers_in_the_language_of_the_page(show, workspace) -> None:
    cells = {}
    for code in ("es", "en"):
        app = show(workspace, "clv", lang=code, view="groups")
        shown = [
            pa.ipc.open_stream(f.proto.arrow_data.styler.display_values).read_all() for f in app.dataframe
        ]
        cells[code] = " ".join(
            str(x) for table in shown for column in table.columns for x in column.to_pylist()
        )
    assert re.search(r"\d,\d", cells["es"])
    assert not re.search(r"\d\.\d{1,2}(?!\d)", cells["es"])
    assert re.search(r"\d\.\d", cells["en"])


def test_a_spanish_report_has_no_english_word(workspace, english, monkeypatch) -> None:
    for module in (messages, figures, grid, report):
        monkeypatch.setattr(module, "language", lambda: "es")
    made = report.build(data.read(workspace), "policy")
    text = html.unescape(
        re.sub(
            r"<script.*?</script>|<style>.*?</style>|<code>.*?</code>|<[^>]*>", "\n", made, flags=re.DOTALL
        )
    )
    mixed = {line: found for line in text.splitlines() if (found := _tokens(line) & english)}
    assert "Efecto" in text
    assert not mixed
