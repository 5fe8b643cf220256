"""Looks back: what a file tells later changes nothing of what was known before."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from nba import tables
from nba.errors import SettingsError
from nba.features import examples
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
WEB = """
[[sources]]
name = "web"
table = "events"
path = "web*.csv"
identifiers = { cookie = "cookie", email = "mail" }
columns = { occurred_at = "day", known_at = "loaded" }
constants = { kind = "view", channel = "web" }
"""
CALLS = """
[[sources]]
name = "calls"
table = "customers"
path = "calls.csv"
identifiers = { phone = "tel", email = "mail" }
columns = { joined_at = "joined", a_city = "city", a_age = "age", updated_at = "at" }
country = "ES"
"""
WEB_HEAD = "cookie,mail,day,loaded"
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


@pytest.fixture
def visited(learnt: Path) -> Path:
    toml = LEARNT[: LEARNT.index('[[sources]]\nname = "shop"')]
    (learnt / "nba.toml").write_text(toml.replace('crm_id = "id"', 'crm_id = "id", email = "mail"') + WEB)
    return learnt


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


# who is who


def put_web(workspace: Path, name: str, rows: list[tuple[str, ...]]) -> History:
    """Write rows of cookie, mail, day, and day of arrival, and ingest."""
    return put(workspace, {f"web_{name}.csv": "\n".join([WEB_HEAD, *(",".join(r) for r in rows), ""])})


def seen(history: History, day: datetime) -> dict[str, list[tuple[int, int]]]:
    """Month and day of each customer's events known at a moment."""
    with history.as_of(day) as snapshot:
        rows = snapshot.sql("select customer_id, occurred_at as t from events order by 2").to_pylist()
    out: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        out.setdefault(row["customer_id"], []).append((row["t"].month, row["t"].day))
    return out


@pytest.mark.parametrize("at_once", [True, False])
def test_a_login_tells_nothing_of_an_anonymous_past_before_it(visited: Path, at_once: bool) -> None:
    visits = [("ck-01", "", "2026-01-03", ""), ("ck-02", "m1@shop.es", "2026-01-09", "")]
    crm = CRM_HEAD.replace("id,", "id,mail,") + "C1,m1@shop.es,2025-01-01,30,2025-01-02\n"
    (visited / "crm.csv").write_text(crm)
    if not at_once:
        put_web(visited, "1", visits)
    login = [
        ("ck-01", "m1@shop.es", "2026-02-10", ""),
        ("ck-01", "", "2026-02-12", ""),
        ("ck-01", "", "2026-02-01", ""),
    ]
    history = put_web(visited, "2", [*(visits if at_once else []), *login])
    ana = history.sql("select customer_id as c from customers where external_id = 'C1'")["c"][0].as_py()
    mine = [(seen(history, datetime(2026, month, day, tzinfo=UTC)).get(ana)) for month, day in DAYS]
    assert mine == [
        [(1, 9)],
        [(1, 3), (1, 9), (2, 1), (2, 10)],
        [(1, 3), (1, 9), (2, 1), (2, 10), (2, 12)],
    ]
    since = {
        row["first_seen_at"].day: row["joined_at"].date().isoformat()
        for row in history.table("identities").to_pylist()
    }
    assert since[3] == "2026-02-10"
    assert len(history.table("customers")) == 1
    told = [row["joined_at"].date().isoformat() for row in history.table("aliases").to_pylist()]
    assert told == ([] if at_once else ["2026-02-10"])


def test_aliases_of_earlier_versions_are_dated_by_the_identifier_of_their_name(visited: Path) -> None:
    (visited / "crm.csv").write_text(CRM_HEAD.replace("id,", "id,mail,") + "C1,m1@shop.es,2025-01-01,30,\n")
    put_web(visited, "1", [("ck-01", "", "2026-01-03", "")])
    history = put_web(visited, "2", [("ck-01", "m1@shop.es", "2026-02-10", "")])
    told = history.table("aliases")
    assert [at.month for at in told["joined_at"].to_pylist()] == [2]
    undated = [{**row, "joined_at": None} for row in told.to_pylist()]
    history.commit(replace={"aliases": tables.ALIASES.build(undated)})
    more = {"crm_2.csv": CRM_HEAD.replace("id,", "id,mail,") + "C2,m2@shop.es,2025-01-01,30,\n"}
    again = put(visited, more).table("aliases")
    assert again.drop_columns(["is_pending"]).equals(told.drop_columns(["is_pending"]))


def test_what_a_file_tells_of_who_went_into_another_is_not_seen_before(learnt: Path) -> None:
    toml = LEARNT.replace('{ crm_id = "crm" }', '{ crm_id = "crm", email = "mail" }', 1)
    (learnt / "nba.toml").write_text(toml[: toml.index('[[sources]]\nname = "till"')])
    head = SHOP_HEAD.replace("crm,", "crm,mail,")

    def ages() -> dict[str, float | None]:
        with History.read(learnt).as_of(datetime(2026, 1, 10, tzinfo=UTC)) as snapshot:
            rows = snapshot.table("customers").to_pylist()
        return {row["customer_id"]: row["a_age"] for row in rows}

    first = "A1,2026-01-02,9,,m0@shop.es,\nA2,2026-01-05,4,C4,,\n"
    put(learnt, {"crm.csv": CRM_HEAD + "C0,2026-01-01,20,2026-01-01\n", "shop.csv": head + first})
    before = ages()
    joins = head + "A3,2026-01-18,8,C4,m0@shop.es,\n"
    history = put(learnt, {"shop_2.csv": joins, "crm_2.csv": CRM_HEAD + "C4,2026-01-11,77,2026-01-19\n"})
    assert history.table("aliases").num_rows == 1
    assert ages() == before
    assert list(before.values()).count(None) == 2


DAYS = ((2, 10), (2, 11), (2, 13))


def test_what_is_told_of_an_identifier_is_told_of_the_customer_since_it_is_its(visited: Path) -> None:
    # A second file of customers, by phone: the call centre learns on 1 March that it is C1's.
    (visited / "crm.csv").write_text(
        CRM_HEAD.replace("id,", "id,mail,")
        + "C1,m1@shop.es,2025-01-01,30,2025-01-02\nC1,m1@shop.es,2025-01-01,31,2026-02-02\n"
    )
    (visited / "calls.csv").write_text(
        "tel,mail,joined,city,age,at\n"
        "600123456,,2025-06-01,Gijón,33,2025-06-01\n600123456,,2025-06-01,Avilés,,2026-04-01\n"
        "600123456,m1@shop.es,2026-03-01,,,\n"
    )
    toml = visited / "nba.toml"
    toml.write_text(toml.read_text() + CALLS)
    history = put_web(visited, "1", [])
    states = [
        (r["since_at"].strftime("%y%m%d"), r["a_age"], r["a_city"])
        for r in history.table("states").to_pylist()
    ]
    assert states == [
        ("000101", None, None),
        ("250102", 30.0, None),
        ("260202", 31.0, None),
        ("260301", 31.0, "Gijón"),
        ("260401", 31.0, "Avilés"),
    ]


# laws

# Of every kind in every example: with few examples a kind that is drawn may never come.
_LINE = st.tuples(st.integers(1, 3), st.integers(-20, 60), st.integers(1, 28))
_LATER = st.fixed_dictionaries(
    {kind: st.lists(_LINE, min_size=1, max_size=2) for kind in ("shop", "till", "crm")}
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
@given(_LATER, st.booleans())
def test_files_of_later_change_no_feature(february: Any, later: dict[str, Any], at_once: bool) -> None:
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
    for kind, (n, amount, day) in [(one, line) for one in later for line in later[one]]:
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


ORDERS = SHOP_HEAD.replace("\n", ",mail\n")
_JOIN = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(0, 40))  # CRM id, e-mail, day
_VISIT = st.tuples(
    st.integers(1, 6), st.one_of(st.none(), st.integers(1, 5)), st.integers(-30, 60), st.integers(0, 60)
)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A workspace of visitors, some of whom are known, and the features of the begin of February in it."""
    workspace = tmp_path_factory.mktemp("visits")
    toml = LEARNT.replace("[[s", 'attributes = { a_age = "number" }\n\n[[s', 1)
    toml = toml[: toml.index('[[sources]]\nname = "till"')].replace('"id"', '"id", email = "mail"') + WEB
    (workspace / "nba.toml").write_text(toml.replace('"crm" }', '"crm", email = "mail" }'))
    (workspace / ".salt").write_text(SALT)
    (workspace / "shop.csv").write_text(ORDERS + "A1,2026-01-10,5,C2,,\n")
    people = "".join(f"C{n},m{n}@shop.es,2025-0{n}-01,{30 + n},2025-0{n}-02\n" for n in (1, 2, 3))
    (workspace / "crm.csv").write_text(CRM_HEAD.replace("id,", "id,mail,") + people)
    rows = [(f"ck-0{n}", "" if n % 2 else f"m{n}@shop.es", f"2026-01-{9 + n:02d}", "") for n in range(1, 6)]
    rows += [("ck-06", "m5@shop.es", "2026-01-20", ""), ("ck-01", "", "2025-01-07", "")]
    rows += [("ck-02", "m1@shop.es", "2026-01-25", "")]  # of another, so that it is refused
    return workspace, built(put_web(workspace, "1", rows))


@hypothesis(max_examples=3, deadline=None, phases=[Phase.generate])
@given(st.lists(_VISIT, min_size=2, max_size=8), st.lists(_JOIN, max_size=2), st.booleans())
def test_visits_and_logins_of_later_change_no_feature(
    visits: Any, later: list[Any], joins: list[Any], at_once: bool
) -> None:
    source, before = visits
    workspace = source.parent / "logins"
    shutil.rmtree(workspace, ignore_errors=True)
    shutil.copytree(source, workspace, ignore=shutil.ignore_patterns("tables") if at_once else None)
    begin = datetime(2026, 2, 1, tzinfo=UTC)
    rows = [("ck-03", "m1@shop.es", "2026-02-03", ""), ("ck-05", "m5@shop.es", "2026-01-08", "2026-02-04")]
    rows += [
        (f"ck-0{cookie}", f"m{mail}@shop.es" if mail else "", *(
            (begin + timedelta(days=n)).date().isoformat() for n in (day, max(day, 0) + wait)))
        for cookie, mail, day, wait in later
    ]  # fmt: skip
    # Two who stand in the CRM turn out to be one, though a cookie on which both logged in told nothing.
    orders = [
        f"J{i},{(begin + timedelta(days=day)).date()},7,C{crm},,m{mail}@shop.es\n"
        for i, (crm, mail, day) in enumerate([(2, 1, 14), *joins])
    ]
    (workspace / "shop_2.csv").write_text(ORDERS + "".join(orders))
    after = {row["customer_id"]: row for row in built(put_web(workspace, "2", rows))}
    was = {row["customer_id"]: row for row in before}
    if at_once:  # a history of its own knows only those who go on
        assert set(after) < set(was)
        was = {name: was[name] for name in after}
    assert str(after) == str(was)


def test_two_who_turn_out_to_be_one_stay_two_in_a_look_back(visits: Any) -> None:
    source, _ = visits
    workspace = source.parent / "joined"
    shutil.copytree(source, workspace)
    moments = [datetime(2026, month, 1, tzinfo=UTC) for month in (2, 3, 4)]
    # In February a visitor turns out to be another, and two of the CRM to be one; in March that
    # visitor turns out to be the latter, so that rows are added only. Of each month a row is told late.
    logins = ((("ck-03", "m8@shop.es"), ("ck-05", "m8@shop.es")), (("ck-05", "m1@shop.es"),))
    told = [looked_back(History.read(workspace), moments[0])]
    for month, mine in zip((2, 3), logins):
        rows = [(*login, f"2026-0{month}-05", "") for login in mine]
        rows.append(("ck-03", "", "2026-01-02", f"2026-0{month}-04"))
        joins = "J2,2026-02-09,9,C2,2026-02-10,m1@shop.es\n"
        (workspace / "shop_2.csv").write_text(ORDERS + joins)
        history = put_web(workspace, str(month), rows)
        assert [looked_back(history, at) for at in moments[: month - 1]] == told
        told.append(looked_back(history, moments[month - 1]))
    gone = {row["alias_id"]: row for row in history.table("aliases").to_pylist()}
    assert any(row["next_id"] != row["customer_id"] for row in gone.values())
    assert set(history.table("customers_earlier")["customer_id"].to_pylist()) == set(gone)
    assert history.has_pending_aliases
    # Whoever asks to be forgotten is forgotten under all names; the others stay two in a look back.
    name = next(iter(gone.values()))["customer_id"]
    ids = {name, *(old for old, row in gone.items() if row["customer_id"] == name)}
    # What one of them bought, all did.
    rows = examples.snapshots(history, moments[:1], 20, moments[1]).filter(pc.field("is_response"))
    assert set(rows["customer_id"].to_pylist()) == ids & {row["customer_id"] for row in told[0][0]}
    assert rows.num_rows > 2
    forget.forget(workspace, "m1@shop.es")
    left = History.read(workspace)
    for earlier in tables.BEFORE.values():
        assert not ids & set(left.table(earlier)["customer_id"].to_pylist())
    for at, was in zip(moments, told):
        others = [[row for row in rows if row["customer_id"] not in ids] for rows in was]
        assert looked_back(left, at) == others


def looked_back(history: History, at: datetime) -> list[list[dict[str, Any]]]:
    """What was known of customers and their rows at a moment."""
    with history.as_of(at) as snapshot:
        return [
            sorted(snapshot.table(name).to_pylist(), key=str)
            for name in ("customers", "identities", "orders", "events")
        ]
