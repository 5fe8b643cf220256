"""A batch decided part by part: the same rows however it is divided, within the same limits."""

import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nba.experiments import design
from nba.policy import arbitrate
from nba.policy.streamed import Cut
from nba.serving import delivery, engines, jobs, pricing, stream
from nba.serving.decide import decide
from nba.settings import Engagement, Lever, Limits, Rule, SendWindow, Volume
from tests.serving.conftest import with_merged

# by hand


def job_of(shop, snapshot, **more):
    nuisance = arbitrate.nuisance(snapshot, shop.catalog, shop.config.reward)
    return jobs.Job(
        "b1", shop.at, shop.catalog, shop.config, {"champion": shop.model}, nuisance, shop.at, **more
    )


def run(shop, history, root, tmp_path, *, rows=64, threads=2, monkeypatch=None, sample=None):
    path = tmp_path / "features.parquet"
    pq.write_table(shop.features, path)
    if monkeypatch is not None:
        monkeypatch.setattr(engines.read_parts, "__defaults__", (rows,))
        monkeypatch.setattr(stream, "SAMPLE", sample or stream.SAMPLE)
    with history.as_of(shop.at) as snapshot:
        job = job_of(shop, snapshot, units=design.units(snapshot))
        return stream.run(job, snapshot, [path], root, engine=engines.Local(threads))


def rows_of(folder):
    parts = [pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(parts)


def test_a_streamed_batch_is_that_of_the_whole_where_all_is_sampled(shop, history, tmp_path, batch):
    found = run(shop, history, tmp_path / "out", tmp_path)
    folder = delivery.publish(found.staged)
    delivery.verify(folder)
    got = rows_of(folder)
    same = [name for name in got.column_names if name != "p_action"]
    different = [
        name for name in same if not got[name].combine_chunks().equals(batch.decisions[name].combine_chunks())
    ]
    assert different == []
    np.testing.assert_allclose(got["p_action"], batch.decisions["p_action"], atol=1e-6)
    np.testing.assert_allclose(found.batches["price"], batch.batches["price"])


def test_prices_stand_in_the_manifest(shop, history, tmp_path):
    found = run(shop, history, tmp_path / "out", tmp_path)
    assert set(found.manifest["prices"]) == {"random", "response", "policy"}
    assert set(found.manifest["prices"]["policy"]["price"]) == {"email", "sms", "call", "budget"}
    assert found.manifest["feature_as_of"] == "2026-03-02T06:00:00+00:00"


def test_a_merged_customer_keeps_the_arm_of_whoever_was_assigned_first(shop, history, tmp_path, batch):
    merged, first = with_merged(history, shop)
    ids = batch.decisions["customer_id"].to_pylist()
    drawn = design.assign(shop.config.experiment, [first.get(name, name) for name in ids]).arm.tolist()
    own = design.assign(shop.config.experiment, ids).arm.tolist()
    moved = [name for name, a, b in zip(ids, drawn, own) if a != b]
    assert {int(name[1:]) % 3 for name in moved} == {0, 1}  # the third kind has its own arm
    with merged.as_of(shop.at) as snapshot:
        whole = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    assert whole.decisions["arm"].to_pylist() == drawn
    got = rows_of(delivery.publish(run(shop, merged, tmp_path / "out", tmp_path).staged))
    for name in ("decision_id", "arm", "p_arm", "treatment_id", "policy_id"):
        assert got[name].to_pylist() == whole.decisions[name].to_pylist(), name
    # Who is on record is not assigned again; a batch once logged changes nothing of its own moment.
    assert not set(whole.assignments["customer_id"].to_pylist()) & set(first)
    logged = merged.commit(append={"assignments": whole.assignments, "decisions": whole.decisions})
    with logged.as_of(shop.at) as snapshot:
        again = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    assert again.decisions.equals(whole.decisions)


def keen(shop):
    return pc.sum(pc.greater(shop.features["f_x"], 0)).as_py()


def test_a_minimum_that_cannot_be_reached_is_said_once_for_the_batch_in_both_engines(shop, history, tmp_path):
    volumes = (Volume(name="club", actions=("club",), least=90_000),)
    shop.config = shop.config.model_copy(update={"limits": Limits(volumes=volumes)})
    told = [run(shop, history, tmp_path / "out", tmp_path).manifest["notes"]]
    with history.as_of(shop.at) as snapshot:
        batch = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    told.append(batch.notes)
    club = pc.sum(pc.starts_with(batch.decisions["treatment_id"], "club")).as_py()
    for notes in told:
        (words,) = [note for note in notes if "can be reached" in note]
        found = re.fullmatch("club: at least 90000 were asked for, ([0-9]+) can be reached", words)
        assert abs(int(found[1]) - club) < 0.1 * club + 10


def test_rules_windows_and_volumes_are_the_same_in_both_engines(shop, history, tmp_path):
    shop.config = shop.config.model_copy(
        update={
            "engagement": Engagement(
                rules=(Rule(name="f_x is up", stage="suitability", keep="f_x > -0.5", channels=("email",)),),
                send_windows=(SendWindow(opens="09:00", closes="20:00"),),
            ),
            "limits": shop.config.limits.model_copy(
                update={"volumes": (Volume(name="club", actions=("club",), most=25, least=15),)}
            ),
            "policy": shop.config.policy.model_copy(
                update={"levers": (Lever(name="keen", when="f_x > 0", weight=3.0, actions=("club",)),)}
            ),
        }
    )
    found = run(shop, history, tmp_path / "out", tmp_path)
    got = rows_of(delivery.publish(found.staged))
    with history.as_of(shop.at) as snapshot:
        whole = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    assert found.removals.equals(whole.removals)
    rule = pc.field("rule") == "f_x is up"
    by_rule = whole.removals.filter(rule)
    assert set(by_rule["stage"].to_pylist()) == {"suitability"}
    assert pc.sum(by_rule["n_customers"]).as_py() == found.manifest["removed_by"]["f_x is up"]
    choices = [pq.ParquetFile(path).read() for path in found.log["choices"]]
    for name in ("weight", "mean"):
        assert pa.concat_tables(choices)[name].to_pylist() == whole.choices[name].to_pylist()
    assert pc.value_counts(whole.choices["weight"]).to_pylist() == [
        {"values": 1.0, "counts": 5 * 400 - 2 * keen(shop)}, {"values": 3.0, "counts": 2 * keen(shop)}
    ]  # fmt: skip
    for name in ("treatment_id", "reason", "send_from", "send_until"):
        assert got[name].to_pylist() == whole.decisions[name].to_pylist()
    sent = got.filter(pc.not_equal(got["treatment_id"], "none"))
    assert {moment.hour for moment in sent["send_from"].to_pylist()} == {9}
    assert got["send_from"].null_count == got.num_rows - sent.num_rows
    assert found.manifest["removed_by"]["f_x is up"] > 0
    low = np.array(shop.features["f_x"].to_pylist()) <= -0.5
    assert "email" not in set(got.filter(pa.array(low))["channel"].to_pylist())
    club = [row for row in whole.batches.to_pylist() if row["limit"] == "club"]
    assert sum(row["used"] for row in club) <= 25
    assert all(row["used"] <= row["available"] for row in club)


# laws


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("sample", [100, 50_000])
def test_rows_do_not_depend_on_the_parts(shop, history, tmp_path, monkeypatch, sample):
    whole = run(
        shop, history, tmp_path / "a", tmp_path, rows=400, threads=1, monkeypatch=monkeypatch, sample=sample
    )
    parts = run(
        shop, history, tmp_path / "b", tmp_path, rows=37, threads=2, monkeypatch=monkeypatch, sample=sample
    )
    assert rows_of(whole.staged).equals(rows_of(parts.staged))
    assert {k: v for k, v in whole.manifest.items() if k != "files"} == {
        k: v for k, v in parts.manifest.items() if k != "files"
    }
    again = run(
        shop, history, tmp_path / "c", tmp_path, rows=37, threads=2, monkeypatch=monkeypatch, sample=sample
    )
    assert digest(again.staged) == digest(parts.staged)


@pytest.mark.parametrize("sample", [100, 50_000])
def test_no_limit_is_exceeded_and_probabilities_are_those_of_the_log(
    shop, history, tmp_path, monkeypatch, sample
):
    found = run(shop, history, tmp_path / "a", tmp_path, monkeypatch=monkeypatch, sample=sample)
    limits = found.batches.to_pylist()
    assert all(row["used"] <= row["available"] + 1e-9 for row in limits)
    decisions = rows_of(found.staged)
    choices = pa.concat_tables([pq.ParquetFile(path).read() for path in found.log["choices"]])
    actions, treatments = shop.catalog.to_tables()
    after = history.commit(
        append={
            "decisions": decisions, "choices": choices, "batches": found.batches,
            "actions": actions, "treatments": treatments,
        }
    )  # fmt: skip
    assert after.broken_laws() == []
    used = sum(row["used"] for row in limits if row["limit"] == "email" and row["arm"] == "policy")
    there = next(row["available"] for row in limits if row["limit"] == "email" and row["arm"] == "policy")
    assert used >= 0.8 * there


def test_probabilities_sum_to_one_and_are_zero_where_not_eligible(shop, history, tmp_path):
    with history.as_of(shop.at) as snapshot:
        job = job_of(shop, snapshot)
        part = engines.score_part(job, snapshot, shop.features)
        found = run(shop, history, tmp_path / "out", tmp_path)
    p = np.array(rows_of(found.staged)["p_action"])
    assert ((p > 0) & (p <= 1)).all()
    cuts = [Cut.none(len(shop.catalog.treatment_ids), 4) for _ in job.rules]
    whole = pricing.probabilities_of(job, part, cuts)
    np.testing.assert_allclose(whole.sum(axis=1), 1)
    assert (whole[part.reason > 0] == 0).all()


# reference


def test_the_batch_solved_whole_and_the_streamed_agree_on_what_it_is_worth(
    shop, history, tmp_path, monkeypatch
):
    found = run(shop, history, tmp_path / "out", tmp_path, monkeypatch=monkeypatch, sample=150)
    with history.as_of(shop.at) as snapshot:
        batch = decide(snapshot, shop.features, shop.catalog, shop.config, {"champion": shop.model}, "b1")
    values = []
    for table in (rows_of(found.staged), batch.decisions):
        own = table.filter(pc.equal(table["arm"], "policy"))
        values.append(pc.sum(own["expected_value"]).as_py())
    assert values[0] > 0.8 * values[1]
