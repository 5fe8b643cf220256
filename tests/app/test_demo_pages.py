"""Every page on the workspace that the whole loop leaves: what it says is what the tables say."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.messages import count, day, number, say
from nba.history import History

EUR = "EUR"
Told = dict[str, str]


def value_of(history: History, query: str) -> float | None:
    """Read one number."""
    (row,) = history.sql(query).to_pylist()
    return next(iter(row.values()))


def overview(history: History, told: Told) -> tuple[str, str]:
    return told["Contacts decided"], number(value_of(history, "select sum(n_contacts) from summary_batches"))


def experiments(history: History, told: Told) -> tuple[str, str]:
    found = "select effect from effects where experiment_id = 'policy' and arm = 'policy' and segment = 'all'"
    return told["text"], number(value_of(history, f"{found} and metric = 'margin'"), EUR, signed=True)


def attribution(history: History, told: Told) -> tuple[str, str]:
    found = value_of(history, "select margin from incremental where level = 'all' and period = 'all'")
    return told["Margin all contact caused"], number(found, EUR)


def clv(history: History, told: Told) -> tuple[str, str]:
    found = "select avg(clv) from clv where as_of = (select max(as_of) from clv)"
    return told["Mean per customer"], number(value_of(history, found), EUR)


def policy(history: History, told: Told) -> tuple[str, str]:
    found = "select n_contacts from summary_batches where arm = 'policy' order by decided_at desc limit 1"
    return told["Contacts of the last batch"], number(value_of(history, found))


def decision(history: History, told: Told) -> tuple[str, str]:
    newest = history.sql("select max(decided_at) as at from decisions")["at"][0].as_py()
    return told["text"], f"On {day(newest)}"


def value(history: History, told: Told) -> tuple[str, str]:
    found = "select n_nothing, n from value_finder order by blocked_total desc nulls last limit 1"
    (most,) = history.sql(found).to_pylist()
    return told["text"], f"For {count(most['n_nothing'])} of its {count(most['n'])} customers nothing"


def models(history: History, told: Told) -> tuple[str, str]:
    versions = value_of(history, "select count(*) from summary_models")
    return told["rows"], str(versions)


def health(history: History, told: Told) -> tuple[str, str]:
    return told["Customers"], number(value_of(history, "select count(*) from customers"))


PAGES = (overview, experiments, attribution, clv, policy, decision, value, models, health)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.__name__)
def test_a_page_tells_what_the_loop_left(
    show: Callable[..., AppTest], small_demo: Path, numbers: Callable, words: Callable, page: Callable
) -> None:
    app = show(small_demo, page.__name__)
    assert not app.exception
    assert not app.error
    assert say("empty.title") not in words(app)
    rows = str(max((len(frame.value) for frame in app.dataframe), default=0))
    said, expected = page(History.read(small_demo), {**numbers(app), "text": words(app), "rows": rows})
    assert expected in said.replace("\\", "")
