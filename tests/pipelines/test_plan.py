"""Planning from a workspace's own history."""

from datetime import UTC, datetime

import pytest

from nba import settings
from nba.errors import DataError, MissingError
from nba.history import History
from pipelines.plan import plan


def test_a_plan_needs_customers(tmp_path):
    (tmp_path / "nba.toml").write_text('[workspace]\nname = "x"\n', encoding="utf-8")
    with pytest.raises(MissingError, match="no customers yet"):
        plan(tmp_path, datetime(2026, 1, 1, tzinfo=UTC))


def test_more_days_and_adjustment_see_smaller_relative_effects(small_demo):
    history = History.read(small_demo)
    at = max(history.table("decisions")["decided_at"].to_pylist())
    found = plan(small_demo, at)
    named = ("policy", "margin", "policy")
    rows = [r for r in found.curve.to_pylist() if (r["experiment_id"], r["metric"], r["arm"]) == named]
    assert [r["days"] for r in rows] == [7, 14, 28, 56]
    assert all(r["mde_adjusted"] <= r["mde"] for r in rows)
    assert rows[-1]["mde_relative"] < rows[0]["mde_relative"]
    needs = found.needs.to_pylist()
    declared = {e.experiment_id for e in settings.read(small_demo).experiments}
    assert {row["experiment_id"] for row in needs} == {"policy"} | declared
    for row in needs:
        enough = row["n_there"] >= row["n"]
        assert enough == (row["power"] >= 0.8)
        assert row["planned_days"] == 28
    margins = [r for r in found.aa.to_pylist() if r["metric"] == "margin"]
    assert all(r["is_fine"] for r in margins)


def test_a_plan_of_days_without_anything_is_refused(small_demo):
    with pytest.raises(
        DataError, match=r"no order, event or touch in the 56 days before .*: the last is of 20"
    ):
        plan(small_demo, datetime(2036, 1, 1, tzinfo=UTC))
