"""Quality judged by thresholds, as a table and as HTML."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from nba import tables
from nba.histories import assess
from nba.history import connect
from nba.settings import Bounds, QualityRules

AT = datetime(2026, 3, 1, tzinfo=UTC)


def touches(days: list[int], **more: Any) -> pa.Table:
    rows = [
        {"touch_id": f"t{i}", "customer_id": "c", "touched_at": AT - timedelta(days=d, hours=1),
         "channel": "email", "kind": "sent", "cost": 0.0} | {name: values[i] for name, values in more.items()}
        for i, d in enumerate(days)
    ]  # fmt: skip
    return tables.TOUCHES.build(rows)


def measured(
    rows: pa.Table, *, is_whole: bool = True, past: pa.Table | None = None, **more: pa.Table
) -> dict[str, float]:
    with connect() as connection:
        connection.register("rows", rows)
        for name, table in more.items():
            connection.register(name, table)
        scans = {"touches": assess.Scan("rows", is_whole), **{n: assess.Scan(n, True) for n in more}}
        found = assess.measure(connection, scans, past, AT)
    return {measure: value for source, measure, value, _ in found if source == "touches"}


# by hand


def test_unknown_values_clocks_and_references_are_measured() -> None:
    rows = touches(
        [-2, 3, 5, 9],
        treatment_id=["sale", "gone", None, "sale"],
        decision_id=["d1", "d2", None, None],
        known_at=[None, AT, AT - timedelta(days=30), None],
    )
    treatments = pa.table({"treatment_id": ["sale", "none"]})
    decisions = pa.table({"decision_id": ["d1"]})
    found = measured(rows, treatments=treatments, decisions=decisions)
    assert (found["null_treatment_id"], found["null_decision_id"]) == (0.25, 0.5)
    assert found["in_the_future"] == 0.25
    assert found["known_too_early"] == 0.25
    assert (found["unknown_treatments"], found["unknown_decisions"]) == (0.25, 0.5)
    assert measured(touches([3]))["stale_days"] == pytest.approx(3 + 1 / 24)


def test_the_last_whole_day_is_held_against_the_usual() -> None:
    usual = [d for d in range(2, 12) for _ in range(4)]
    found = measured(touches([0] + [1] * 2 + usual))
    assert (found["usual_rows"], found["volume"]) == (4.0, 0.5)
    past = tables.QUALITY.build([{"source": "touches", "measure": "usual_rows", "value": 8.0, "note": ""}])
    assert measured(touches([0, 0]), is_whole=False, past=past)["volume"] == 0.25
    assert "volume" not in measured(touches([0, 0]), is_whole=False)


def test_late_rows_are_no_thin_day_and_a_table_without_news_keeps_its_measures() -> None:
    with connect() as connection:

        def run(
            past: pa.Table | None, rows: pa.Table | None, *, is_whole: bool = False, later: int = 0
        ) -> pa.Table:
            if rows is not None:
                connection.register("rows", rows)
            scans = {"touches": assess.Scan("rows", is_whole)} if rows is not None else {}
            found = assess.measure(connection, scans, past, AT + timedelta(days=later))
            return tables.QUALITY.build([dict(zip(tables.QUALITY.columns, row)) for row in found])

        def value(found: pa.Table, measure: str) -> float:
            return {row["measure"]: row["value"] for row in found.to_pylist()}[measure]

        whole = run(None, touches([d for d in range(12) for _ in range(4)]), is_whole=True)
        late = run(whole, touches([8, 9]), later=1)
        assert [value(late, m) for m in ("volume", "usual_rows", "stale_days")] == pytest.approx(
            [1, 4, 1 + 1 / 24]
        )
        # Another table's file: this one grows stale and keeps what is usual.
        none = run(late, None, later=2)
        assert [value(none, m) for m in ("volume", "usual_rows", "stale_days")] == pytest.approx(
            [1, 4, 2 + 1 / 24]
        )
        # A new day that is over is judged, one that is not over is not.
        assert value(run(none, touches([-2]), later=3), "volume") == 0.25
        assert value(run(none, touches([-2]), later=1), "volume") == 1


def test_days_without_rows_are_told_unless_their_weekday_is_closed() -> None:
    # The newest row is of a Saturday, 2026-02-28.
    full = [d for d in range(28) for _ in range(10)]
    assert measured(touches(full))["empty_days"] == 0
    without = measured(touches([d for d in full if d not in (1, 5)]))
    assert (without["volume"], without["empty_days"]) == (0, 2)
    closed = [d for d in full if (AT - timedelta(days=d, hours=1)).weekday() not in (4, 6)]
    found = measured(touches([d for d in closed if d != 5]))
    assert (found["volume"], found["empty_days"], found["closed_weekdays"]) == (1, 1, 0b1010000)
    few = measured(touches([d for d in range(28) if d != 5 for _ in range(3)]))
    assert few["empty_days"] == 0

    rare = measured(touches([0, 300, 600, 600]))
    assert (rare["volume"], rare["empty_days"], rare["closed_weekdays"]) == (0.5, 0, 0)

    # New files: what lies between them and the newest row before.
    def past(day: datetime, closed: int) -> pa.Table:
        newest = day.timestamp() / 86400
        rows = {"usual_rows": 10.0, "newest": newest, "closed_weekdays": float(closed), "empty_days": 3.0}
        return tables.QUALITY.build(
            {"source": "touches", "measure": name, "value": value, "note": ""} for name, value in rows.items()
        )

    last = AT - timedelta(days=4)  # a Wednesday; the news are of Saturday
    assert measured(touches([0]), is_whole=False, past=past(last, 0))["empty_days"] == 2
    assert measured(touches([0]), is_whole=False, past=past(last, 0b10000))["empty_days"] == 1
    assert measured(touches([9]), is_whole=False, past=past(last, 0))["empty_days"] == 3
    quality = tables.QUALITY.build([{"source": "touches", "measure": "empty_days", "value": 1.0, "note": ""}])
    assert assess.judge(quality, QualityRules())["status"].to_pylist() == ["warning"]


def test_who_is_who_is_judged() -> None:
    rows = [
        ("customers", 200), ("identifiers_email", 50), ("cut_email", 4), ("largest", 501), ("merges", 90),
        ("external_cut", 1), ("merged_now", 40), ("split_now", 0), ("links_refused", 10), ("splits", 9),
    ]  # fmt: skip
    quality = tables.QUALITY.build(
        {"source": "identity", "measure": m, "value": float(v), "note": "why"} for m, v in rows
    )
    rules = QualityRules(merges=Bounds(stop=0.15), refused=Bounds(warn=0.04))
    found = {row["check"]: row for row in assess.judge(quality, rules).to_pylist()}
    told = {name: (row["subject"], row["value"], row["status"]) for name, row in found.items()}
    assert told == {
        "cut": ("email", 0.08, "warning"),
        "largest": ("identity", 501.0, "warning"),
        "cut external": ("identity", 1.0, "warning"),
        "merges": ("identity", 0.2, "stop"),
        "splits": ("identity", 0.0, "ok"),
        "refused": ("identity", 0.05, "warning"),
    }
    assert found["refused"]["note"] == "10 of 200 customers why"


def test_thresholds_warn_and_stop() -> None:
    rows = [
        ("shop", "rows_in", 100), ("shop", "duplicates", 30), ("shop", "quarantined", 1),
        ("shop", "days_behind", 3), ("orders", "volume", 0.2), ("orders", "null_margin", 0.5),
        ("consent", "can_email", 0.1), ("touches", "x", 1),
    ]  # fmt: skip
    quality = tables.QUALITY.build(
        {"source": s, "measure": m, "value": float(v), "note": "why <b>"} for s, m, v in rows
    )
    rules = QualityRules(
        duplicates=Bounds(warn=0.1, stop=0.25),
        volume=Bounds(warn=0.5, stop=0.1),
        nulls={"orders.margin": Bounds(warn=0.4)},
        consent={"email": Bounds(stop=0.2)},
    )
    found = {
        (row["check"], row["subject"]): row["status"] for row in assess.judge(quality, rules).to_pylist()
    }
    assert found == {
        ("duplicates", "shop"): "stop",
        ("quarantined", "shop"): "ok",
        ("behind", "shop"): "ok",
        ("volume", "orders"): "warning",
        ("unknown values", "orders.margin"): "warning",
        ("consent", "can_email"): "stop",
    }
    page = assess.page(quality, assess.judge(quality, rules), "Quality of <this>")
    assert "2 findings stop the run, 2 warn, of 6." in page
    assert page.index("stop") < page.index("quarantined")
    assert "<td class=n>12,345<" in assess.page(
        tables.QUALITY.build([{"source": "s", "measure": "m", "value": 12345.0, "note": ""}]),
        assess.SCHEMA.empty_table(),
        "t",
    )
    assert "<b>" not in page.replace("<body>", "")
    assert "&lt;this&gt;" in page
