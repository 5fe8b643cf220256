"""The simulated company as steps: made once, answers each delivered batch once."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nba.errors import DataError, MissingError
from nba.histories.simulated import World
from pipelines import simulate

AT = datetime(2026, 1, 5, 6, tzinfo=UTC)


@pytest.fixture
def workspace(tmp_path):
    folder = tmp_path / "shop"
    simulate.simulate(folder, n_customers=500, seed=1, n_batches=3)
    return folder


def deliver(workspace, batch_id="b0", at=AT, treatment="collection_email"):
    folder = workspace / "decisions" / f"batch_id={batch_id}"
    folder.mkdir(parents=True)
    world = World.load(workspace / "world")
    ids = [world._book.crm_id[i].as_py() for i in range(100)] + [None]
    rows = pa.table(
        {
            "decision_id": [f"{batch_id}-{i}" for i in range(101)],
            "external_id": pa.array(ids, pa.string()),
            "treatment_id": [treatment] * 50 + ["none"] * 51,
            "channel": ["email"] * 50 + ["none"] * 51,
            "decided_at": pa.array([at] * 101, pa.timestamp("us", tz="UTC")),
            "p_action": [0.5] * 101,
        }
    )
    pq.write_table(rows, folder / "part-00000.parquet")
    return folder


def files(workspace):
    return {p: p.read_bytes() for p in sorted((workspace / "sources").rglob("*")) if p.is_file()}


# by hand


def test_a_batch_is_answered_once_and_only_when_its_manifest_is_there(workspace):
    folder = deliver(workspace)
    with pytest.raises(MissingError, match=r"manifest\.json"):
        simulate.respond(workspace, "b0")
    assert not simulate.has_responded(workspace, "b0")
    (folder / "manifest.json").write_text("{}")
    assert not simulate.has_responded(workspace, "b0")
    report = simulate.respond(workspace, "b0")
    assert (report.next_batch, report.n_contacts) == (1, 50)
    assert simulate.has_responded(workspace, "b0")
    before = files(workspace)
    assert {p.name for p in before} >= {"orders_20260105.csv", "touchpoints_20260105.parquet"}
    assert simulate.respond(workspace, "b0").next_batch == 1
    assert files(workspace) == before


def test_the_same_workspace_stays_and_another_is_refused(workspace):
    before = files(workspace)
    assert simulate.simulate(workspace, n_customers=500, seed=1, n_batches=3).next_batch == 0
    assert files(workspace) == before
    with pytest.raises(DataError, match="seed 1"):
        simulate.simulate(workspace, n_customers=500, seed=2, n_batches=3)


def test_a_damaged_part_is_named(workspace):
    folder = deliver(workspace)
    (folder / "manifest.json").write_text("{}")
    (folder / "part-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="part-00000"):
        simulate.respond(workspace, "b0")


# laws


def test_touches_of_a_batch_carry_its_decisions(workspace):
    (deliver(workspace) / "manifest.json").write_text("{}")
    simulate.respond(workspace, "b0")
    touches = pq.read_table(workspace / "sources/touchpoints/touchpoints_20260105.parquet").to_pylist()
    ours = [row for row in touches if row["decision_id"]]
    assert ours
    assert {row["treatment_id"] for row in ours} == {"collection_email"}
    assert all(int(row["decision_id"].split("-")[1]) < 50 for row in ours)
    assert all(row["at"] > AT for row in ours)
