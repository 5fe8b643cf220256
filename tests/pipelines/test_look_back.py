"""Looks back: what a file tells later changes nothing of what was known before."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from nba.errors import SettingsError
from nba.features import table as features
from nba.history import History
from pipelines import forget, ingest

SALT = "a salt for tests, long enough"
LEARNT = """
[workspace]
name = "test"

[[sources]]
name = "crm"
table = "customers"
path = "crm*.csv"
identifiers = { crm_id = "id" }
columns = { joined_at = "joined", a_age = "age", updated_at = "at" }

[[sources]]
name = "shop"
table = "orders"
path = "shop*.csv"
identifiers = { crm_id = "crm" }
columns = { order_id = "order", ordered_at = "placed", revenue = "amount", known_at = "loaded" }
margin_share = 0.5

[[sources]]
name = "till"
table = "orders"
path = "till*.csv"
aggregate = true
identifiers = { crm_id = "crm" }
columns = { order_id = "order", ordered_at = "placed", revenue = "amount", known_at = "loaded" }
margin_share = 0.5
"""
CRM_HEAD, SHOP_HEAD = "id,joined,age,at\n", "order,placed,amount,crm,loaded\n"
BEFORE = {
    "crm.csv": CRM_HEAD + "C1,2025-01-01,30,2025-01-02\nC2,2025-01-01,41,2025-01-02\n",
    "shop.csv": SHOP_HEAD + "A1,2026-01-10,100,C1,2026-01-11\nA2,2026-01-12,40,C2,\n",
    "till.csv": SHOP_HEAD + "L1,2026-01-10,50,C1,2026-01-11\nL1,2026-01-12,8,C1,2026-01-20\n",
}


def put(workspace: Path, files: dict[str, str]) -> History:
    """Write files beside those that are there, and ingest."""
    for name, text in files.items():
        (workspace / name).write_text(text)
    ingest.ingest(workspace)
    return History.read(workspace)


@pytest.fixture
def learnt(tmp_path: Path) -> Path:
    (tmp_path / "nba.toml").write_text(LEARNT)
    (tmp_path / ".salt").write_text(SALT)
    return tmp_path


def revenue(history: History, *day: int) -> dict[str, float]:
    """Revenue of the orders known at the begin of a day."""
    with history.as_of(datetime(*day, tzinfo=UTC)) as snapshot:
        return {row["order_id"]: row["revenue"] for row in snapshot.table("orders").to_pylist()}


# by hand


def test_a_look_back_sees_an_order_as_it_was_before_its_correction(learnt: Path) -> None:
    put(learnt, BEFORE)
    history = put(
        learnt,
        {
            "shop_2.csv": SHOP_HEAD + "A1,2026-01-10,90,C1,2026-03-01\nA2,2026-02-10,40,C2,\n",
            "shop_3.csv": SHOP_HEAD + "A1,2026-01-10,80,C1,2026-02-01\n",
            "till_2.csv": SHOP_HEAD + "L1,2026-02-20,7,C1,2026-03-01\n",
        },
    )
    # The last file counts, but nobody knew of it before February.
    assert {r["order_id"]: r["revenue"] for r in history.table("orders").to_pylist()} == {
        "A1": 80.0, "A2": 40.0, "L1": 65.0
    }  # fmt: skip
    assert revenue(history, 2026, 1, 11) == {}
    assert revenue(history, 2026, 1, 12) == {"A1": 100.0, "L1": 50.0}
    assert revenue(history, 2026, 1, 21) == {"A1": 100.0, "A2": 40.0, "L1": 58.0}
    assert revenue(history, 2026, 2, 1) == {"A1": 100.0, "A2": 40.0, "L1": 58.0}
    assert revenue(history, 2026, 2, 2) == {"A1": 80.0, "A2": 40.0, "L1": 58.0}
    assert revenue(history, 2026, 3, 2) == {"A1": 80.0, "A2": 40.0, "L1": 65.0}
    assert not history.broken_laws()
    assert history.n_rows("orders_earlier") == 4
    forget.forget(learnt, "C1")
    assert History.read(learnt).table("orders_earlier")["order_id"].to_pylist() == ["A2"]


def test_an_attribute_stays_the_number_that_it_was(learnt: Path) -> None:
    put(learnt, BEFORE)
    late = {"crm_2.csv": CRM_HEAD + "C9,2026-04-01,n/d,2026-04-01\nC2,2025-01-01,42,2026-04-01\n"}
    history = put(learnt, late)
    ages = "select a_age from customers order by external_id"
    assert history.sql(ages)["a_age"].to_pylist() == [30.0, 42.0, None]
    row = next(r for r in history.table("quality").to_pylist() if r["source"] == "attributes")
    assert (row["measure"], row["value"], row["note"][:28]) == ("a_age", 0.25, "1 values that are no number,")
    findings = ingest.ingest(learnt).findings
    assert findings is not None
    assert "unfit values" in {r["check"] for r in findings.to_pylist() if r["status"] == "warning"}
    # Declared, it is what is declared.
    toml = learnt / "nba.toml"
    toml.write_text(LEARNT.replace("[[s", 'attributes = { a_age = "text" }\n\n[[s', 1))
    assert put(learnt, {}).sql(ages)["a_age"].to_pylist() == ["30", "42", "n/d"]
    toml.write_text(
        toml.read_text().replace("a_age =", "a_aeg =", 1).replace('a_aeg = "age"', 'a_age = "age"')
    )
    with pytest.raises(SettingsError, match=r"names \['a_aeg'\]; sources map \['a_age'\]"):
        ingest.ingest(learnt)


# laws

_LATER = st.tuples(
    st.sampled_from(["shop", "till", "crm"]), st.integers(1, 3), st.integers(-20, 60), st.integers(1, 28)
)


@pytest.fixture(scope="module")
def february(tmp_path_factory: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A workspace, and the features of the begin of February in it."""
    workspace = tmp_path_factory.mktemp("february")
    toml = LEARNT.replace("[[s", 'attributes = { a_age = "number" }\n\n[[s', 1)
    (workspace / "nba.toml").write_text(toml)
    (workspace / ".salt").write_text(SALT)
    return workspace, built(put(workspace, BEFORE))


def built(history: History) -> list[dict[str, Any]]:
    with history.as_of(datetime(2026, 2, 1, tzinfo=UTC)) as snapshot:
        return features.build(snapshot).to_pylist()


@hypothesis(max_examples=2, deadline=None, phases=[Phase.generate])
@given(st.lists(_LATER, min_size=3, max_size=6), st.booleans())
def test_files_of_later_change_no_feature(february: Any, later: list[Any], at_once: bool) -> None:
    source, before = february
    workspace = source.parent / "later"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(source, workspace, ignore=shutil.ignore_patterns("tables") if at_once else None)
    # A correction and a line of known orders always; the others add to them.
    files = {
        "crm_2.csv": CRM_HEAD + "C9,2026-04-01,n/d,2026-04-01\n",
        "shop_2.csv": SHOP_HEAD + "A1,2026-01-10,90,C1,2026-03-01\n",
        "till_2.csv": SHOP_HEAD + "L1,2026-02-20,7,C1,2026-03-01\n",
    }
    # Who is a customer is not dated, so they tell of the same two.
    for kind, n, amount, day in later:
        moment = f"2026-{2 + day % 3:02d}-{day:02d}"
        files[f"{kind}_2.csv"] += {
            "shop": f"A{n},2026-01-15,{amount},C{1 + n % 2},{moment}\n",
            "till": f"L{n},{moment},{amount},C1,{moment}\n",
            "crm": f"C{1 + n % 2},2025-01-01,{amount if n > 1 else 'unknown'},{moment}\n",
        }[kind]
    after = built(put(workspace, files))
    assert [row.keys() for row in after] == [row.keys() for row in before]
    if at_once:  # a history of its own, in which customers have other ids
        before, after = (
            sorted(({**row, "customer_id": ""} for row in rows), key=str) for rows in (before, after)
        )
    assert str(after) == str(before)
