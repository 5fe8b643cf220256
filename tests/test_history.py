import fcntl
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nba import feedback, tables
from nba import history as history_module
from nba.catalog import Catalog
from nba.errors import DataError, MissingError
from nba.histories import assess
from nba.history import History
from nba.settings import Reward
from nba.spill import Spill

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _orders(*days: int) -> pa.Table:
    return tables.ORDERS.build(
        {
            "order_id": f"o{day}", "customer_id": "c", "ordered_at": NOW + timedelta(days=day),
            "revenue": 1.0, "margin": 0.5, "n_items": 1, "is_return": False,
        }
        for day in days
    )  # fmt: skip


# by hand


def test_a_commit_appends_and_replaces(tmp_path: Path) -> None:
    one = History.read(tmp_path).commit(append={"orders": _orders(-2)})
    two = one.commit(append={"orders": _orders(-1)})
    assert two.table("orders").num_rows == 2
    three = two.commit(replace={"orders": _orders(5)})
    assert History.read(tmp_path).table("orders")["order_id"].to_pylist() == ["o5"]
    assert three.version == 3
    assert [three.last_written(*n) for n in (("orders", "events"), ("events",))] == [3, 0]


def test_as_of_sees_only_what_was_known(tmp_path: Path) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1, 0, 1)})
    with history.as_of(NOW) as snapshot:
        assert snapshot.table("orders")["order_id"].to_pylist() == ["o-1"]
        assert snapshot.table("touches").num_rows == 0


def test_an_outcome_counts_from_the_moment_it_closed(tmp_path: Path) -> None:
    outcome = {
        "decision_id": "d", "is_delivered": True, "is_response": False, "is_click": False,
        "is_unsubscribe": False, "reward": 0.0, "closed_at": NOW, "window_days": 14,
    }  # fmt: skip
    history = History.read(tmp_path).commit(append={"outcomes": tables.OUTCOMES.build([outcome])})
    with history.as_of(NOW) as at, history.as_of(NOW - timedelta(seconds=1)) as before:
        assert (at.table("outcomes").num_rows, before.table("outcomes").num_rows) == (1, 0)


def test_what_does_not_fit_into_memory_is_spilled_into_a_folder_not_yet_there(tmp_path: Path) -> None:
    with history_module.connect(memory_gb=0.04, spill=tmp_path / "new" / "spill") as connection:
        query = "create temp table x as select hash(i) as h, i from range(2_500_000) t(i) order by h"
        connection.execute(query).fetchall()
        used = connection.execute("select count(*) from duckdb_temporary_files()").fetchall()[0][0]
    assert used > 0


def test_as_of_keeps_to_the_memory_of_its_workspace(tmp_path: Path) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1)})
    limit = "select current_setting('memory_limit') as m, current_setting('temp_directory') as d"
    (tmp_path / "nba.toml").write_text('[workspace]\nname = "test"\nmemory_gb = 0.5\n')
    told = []
    for given in (None, 1.0, None):
        with history.as_of(NOW, given) as snapshot:
            told += snapshot.sql(limit).to_pylist()
            query = "create temp table x as select hash(i) as h, i from range(2_500_000) t(i) order by h"
            if given:
                continue
            snapshot.connection.execute("set memory_limit = '40MB'").fetchall()
            snapshot.connection.execute(query).fetchall()
            used = snapshot.sql("select count(*) as n from duckdb_temporary_files()")["n"][0].as_py()
            assert used > 0
    assert [row["m"] for row in told] == ["476.8 MiB", "953.6 MiB", "476.8 MiB"]
    assert len({row["d"] for row in told}) == 3
    assert not list((tmp_path / "tables").glob(".spill*"))
    (tmp_path / "nba.toml").write_text("[workspace]\nmemory_gb = 'much'\n")
    with history.as_of(NOW) as snapshot:  # the settings' own readers tell what is wrong with them
        assert snapshot.table("orders").num_rows == 1


_KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from nba.history import History
snapshot = History.read(Path(sys.argv[1])).as_of(datetime(2026, 1, 1, tzinfo=UTC), 0.5)
query = "create temp table x as select hash(i) as h, i from range(2_500_000) t(i) order by h"
snapshot.connection.execute("set memory_limit = '40MB'").fetchall()
snapshot.connection.execute(query).fetchall()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_spilled_is_swept_and_what_another_uses_stays(tmp_path: Path) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1)})
    folder = tmp_path / "tables"
    with history.as_of(NOW, 0.5) as held:
        own = Path(held.sql("select current_setting('temp_directory') as d")["d"][0].as_py())
        own.mkdir()
        killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        left = [path for path in folder.glob(".spill-*") if path.is_dir() and path != own]
        assert len(left) == 1
        assert list(left[0].iterdir())
        with history.as_of(NOW, 0.5):
            assert not left[0].exists()
            assert own.is_dir()
    assert not list(folder.glob(".spill*"))


def test_a_lock_that_a_sweep_took_before_it_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, flock = [], fcntl.flock

    def late(file: int, how: int) -> None:
        if not calls:  # another's sweep, between the opening and the holding
            sweep(tmp_path)
        calls.append(how)
        flock(file, how)

    def sweep(parent: Path) -> None:
        for lock in parent.glob("*.lock"):
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    spill = Spill(tmp_path)
    spill.path.mkdir()
    assert len(calls) == 2
    Spill(tmp_path).close()
    assert sorted(tmp_path.iterdir()) == [spill.path, spill.path.with_suffix(".lock")]
    spill.close()
    assert not list(tmp_path.iterdir())


def test_as_of_needs_a_time_zone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no time zone"):
        History.read(tmp_path).as_of(datetime(2026, 1, 1))


def test_a_missing_table_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no table 'orders' yet"):
        History.read(tmp_path).table("orders")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1)})
    Path(history.paths("orders")[0]).write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match="cannot be read"):
        history.table("orders")


# laws


def test_an_interrupted_commit_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1)})
    index = (tmp_path / "tables" / "history.json").read_text()
    write, calls = history_module._write, []

    def stopped(table: pa.Table, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(table, path)

    monkeypatch.setattr(history_module, "_write", stopped)
    rng = np.random.default_rng(0)
    with pytest.raises(KeyboardInterrupt):
        history.commit(append={"orders": _orders(-3), "events": tables.EVENTS.sample(3, rng)})
    assert (tmp_path / "tables" / "history.json").read_text() == index
    assert History.read(tmp_path).table("orders").num_rows == 1
    monkeypatch.undo()
    after = history.commit(append={"orders": _orders(-3)})
    on_disk = {str(p.relative_to(tmp_path / "tables")) for p in (tmp_path / "tables").glob("*/*.parquet")}
    assert on_disk == {file for files in after.files.values() for file in files}, (
        "the leftover file was swept"
    )


def test_a_table_that_breaks_its_contract_changes_nothing(tmp_path: Path) -> None:
    history = History.read(tmp_path).commit(append={"orders": _orders(-1)})
    with pytest.raises(DataError):
        history.commit(append={"orders": _orders(-2), "events": pa.table({"x": [1]})})
    assert json.loads((tmp_path / "tables" / "history.json").read_text())["version"] == 1


def test_two_runs_at_once_cannot_both_commit(tmp_path: Path) -> None:
    one, two = History.read(tmp_path), History.read(tmp_path)
    one.commit(append={"orders": _orders(-1)})
    with pytest.raises(DataError, match="another run"):
        two.commit(append={"orders": _orders(-2)})
    assert History.read(tmp_path).table("orders").num_rows == 1


def test_laws_across_tables_bite(tmp_path: Path) -> None:
    decision = {
        "decision_id": "d", "batch_id": "b", "customer_id": "c", "treatment_id": "sale", "channel": "email",
        "decided_at": NOW, "p_action": 0.5, "policy_id": "p", "arm": "holdout", "reason": "",
        "config_hash": "h",
        "valid_until": NOW,
    }  # fmt: skip
    choices = [
        {
            "decision_id": "d",
            "treatment_id": t,
            "is_eligible": t != "x",
            "reason": "",
            "p_action": p,
            "price": 0.0,
        }
        for t, p in (("none", 0.3), ("sale", 0.6), ("x", 0.2))
    ]
    treatments = [
        {"treatment_id": "other", "action_id": "a", "channel": "sms", "cost": 0.0, "cooldown_days": 0}
    ]
    batch = {"batch_id": "b", "arm": "a", "limit": "sms", "decided_at": NOW, "available": 1.0, "used": 2.0,
             "price": 0.0, "n_customers": 1}  # fmt: skip
    outcome = {"decision_id": "d", "is_delivered": True, "is_response": False, "is_click": False,
               "is_unsubscribe": False, "reward": 0.0, "closed_at": NOW, "window_days": 14}  # fmt: skip
    credit = {"method": "last", "order_id": "o", "touch_id": "t", "customer_id": "c", "channel": "email",
              "share": 0.5, "credit": 1.0}  # fmt: skip
    history = History.read(tmp_path).commit(
        append={
            "decisions": tables.DECISIONS.build([decision]),
            "choices": tables.CHOICES.build(choices),
            "treatments": tables.TREATMENTS.build(treatments),
            "batches": tables.BATCHES.build([batch]),
            "outcomes": tables.OUTCOMES.build([outcome]),
            "credits": tables.CREDITS.build([credit]),
        }
    )
    broken = "\n".join(history.broken_laws())
    for law in tables.LAWS:
        assert law.name in broken


# customers that turned out to be one


def _merged(tmp_path: Path) -> History:
    """Two customers were decided for, each in its arm; then `b` turned out to be `a`, and `x` to be `c`."""
    day = datetime(2026, 1, 1, tzinfo=UTC)

    def decision(name: str, who: str, arm: str) -> dict[str, object]:
        return {
            "decision_id": name, "batch_id": "b1", "customer_id": who, "treatment_id": "sale_email",
            "channel": "email", "decided_at": day, "p_action": 0.5, "policy_id": "p", "reason": "",
            "config_hash": "x", "valid_until": day + timedelta(days=7), "experiment_id": "policy", "arm": arm,
        }  # fmt: skip

    def order(name: str, who: str, after: int = 2) -> dict[str, object]:
        return {
            "order_id": name, "customer_id": who, "ordered_at": day + timedelta(days=after), "revenue": 10.0,
            "margin": 4.0, "n_items": 1, "is_return": False,
        }  # fmt: skip

    assigned = [
        {"experiment_id": "policy", "customer_id": who, "arm": arm, "assigned_at": at, "p_arm": 0.5}
        for who, arm, at in (
            ("a", "policy", day),
            ("b", "holdout", day - timedelta(days=9)),
            ("x", "policy", day),
        )
    ]
    aliases = [
        {"alias_id": "b", "customer_id": "a", "is_pending": True},
        {"alias_id": "x", "customer_id": "c", "is_pending": True},
    ]
    return History.read(tmp_path).commit(
        append={
            "decisions": tables.DECISIONS.build(
                [decision("d1", "a", "policy"), decision("d2", "b", "holdout")]
            ),
            "assignments": tables.ASSIGNMENTS.build(assigned),
            # The last one tells that data have come since the windows ended.
            "orders": tables.ORDERS.build([order("o1", "a"), order("o2", "b"), order("o3", "c", after=20)]),
            "aliases": tables.ALIASES.build(aliases),
        }
    )


def test_rows_and_decisions_follow_the_customer_that_goes_on(tmp_path: Path) -> None:
    history = _merged(tmp_path)
    assert sorted(history.table("orders")["customer_id"].to_pylist()) == ["a", "a", "c"]
    with history.as_of(datetime(2026, 2, 1, tzinfo=UTC)) as snapshot:
        assert sorted(snapshot.table("orders")["customer_id"].to_pylist()) == ["a", "a", "c"]
        decided = {
            r["decision_id"]: (r["customer_id"], r["arm"]) for r in snapshot.table("decisions").to_pylist()
        }
        # What was decided stays as it was, arm included; what came of it is now found.
        assert decided == {"d1": ("a", "policy"), "d2": ("a", "holdout")}
        found = feedback.outcomes(snapshot, Catalog.from_tables(*_catalog()), Reward(window_days=14))
    assert found["is_response"].to_pylist() == [True, True]


def test_a_look_back_to_before_two_were_known_to_be_one_keeps_them_apart(tmp_path: Path) -> None:
    history = _merged(tmp_path)
    since = datetime(2026, 1, 6, tzinfo=UTC)
    told = [{**row, "joined_at": since} for row in history.table("aliases").to_pylist()]
    history = history.commit(replace={"aliases": tables.ALIASES.build(told)})
    known = {row["order_id"]: row["known_at"] for row in history.table("orders").to_pylist()}
    assert known == {"o1": None, "o2": since, "o3": None}
    for day, orders, whose in ((6, {"o1": "a", "o2": "b"}, "b"), (7, {"o1": "a", "o2": "a"}, "a")):
        with history.as_of(datetime(2026, 1, day, tzinfo=UTC)) as snapshot:
            found = {r["order_id"]: r["customer_id"] for r in snapshot.table("orders").to_pylist()}
            decided = {r["decision_id"]: r["customer_id"] for r in snapshot.table("decisions").to_pylist()}
            assert (found, decided) == (orders, {"d1": "a", "d2": whose})
            arms = {r["customer_id"]: r["arm"] for r in snapshot.table("assignments").to_pylist()}
            apart = {"a": "policy", "b": "holdout", "x": "policy"}
            assert arms == (apart if day == 6 else {"a": "holdout", "c": "policy"})


def test_of_two_assignments_the_earlier_stands_whichever_id_goes_on(tmp_path: Path) -> None:
    history = _merged(tmp_path)
    with history.as_of(datetime(2026, 2, 1, tzinfo=UTC)) as snapshot:
        rows = {row["customer_id"]: row["arm"] for row in snapshot.table("assignments").to_pylist()}
        units = {row["customer_id"]: row["unit_id"] for row in snapshot.sql("from units").to_pylist()}
        apart = snapshot.sql("from decided_apart")["decision_id"].to_pylist()
    # `b` was assigned earlier, in another arm: its arm goes on in `a`, which counts once. `x` alone was
    # assigned, so its arm goes with it to `c`.
    assert rows == {"a": "holdout", "c": "policy"}
    assert units == {"a": "b", "c": "x"}
    assert apart == ["d1"]
    with history.connection(follows=True) as connection:
        whole = connection.sql("select customer_id, arm from assignments_all").fetchall()
        decided = connection.sql("select decision_id, customer_id from decisions_all").fetchall()
    assert dict(whole) == rows
    assert dict(decided) == {"d1": "a", "d2": "a"}
    assert sorted(history.lookup("decisions", "customer_id", ["a"])["decision_id"].to_pylist()) == [
        "d1",
        "d2",
    ]
    # Before anybody of them was assigned nobody has a unit; before `a` was, `b` has its own.
    for before, seen in ((9, {}), (1, {"a": "b"})):
        with history.as_of(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=before)) as snapshot:
            assert dict(snapshot.connection.sql("from units").fetchall()) == seen
            assert snapshot.table("assignments").num_rows == len(seen)
    scans = {name: assess.Scan(history.scan(name), True) for name in ("aliases", "assignments")}
    with history.connection() as connection:
        told = assess.measure(connection, scans, None, None)
    assert [(measure, value) for _, measure, value, _ in told] == [("merged_across_arms", 1.0)]


def _catalog() -> tuple[pa.Table, pa.Table]:
    actions = tables.ACTIONS.build(
        [{"action_id": "sale", "issue": "", "group": "", "name": "", "margin": 1.0, "lever": 1.0}]
    )
    treatment = {"treatment_id": "sale_email", "action_id": "sale", "channel": "email", "cost": 0.1}
    return actions, tables.TREATMENTS.build([treatment | {"cooldown_days": 7}])
