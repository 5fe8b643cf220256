from datetime import UTC, datetime, timedelta

from nba import monitoring, tables
from nba.history import History
from nba.monitoring import SCHEMA, health

AT = datetime(2026, 3, 9, 6, tzinfo=UTC)


def ago(days: float) -> datetime:
    return AT - timedelta(days=days)


def decisions(batch: str, days: float, contacts: int, n: int = 10) -> list[dict]:
    return [
        {
            "decision_id": f"{batch}{i}", "batch_id": batch, "customer_id": f"c{i}",
            "treatment_id": "mail" if i < contacts else "none", "channel": "email", "decided_at": ago(days),
            "p_action": 0.5, "policy_id": "p", "reason": "", "config_hash": "", "valid_until": ago(days - 7),
        }
        for i in range(n)
    ]  # fmt: skip


def order(days: float) -> dict:
    base = {"order_id": str(days), "customer_id": "c1", "ordered_at": ago(days), "revenue": 1.0}
    return base | {"margin": 1.0, "n_items": 1, "is_return": False}


def limit(name: str, used: float, price: float) -> dict:
    base = {"batch_id": "b2", "arm": "policy", "limit": name, "decided_at": ago(4), "available": 10.0}
    return base | {"used": used, "price": price, "n_customers": 10}


def look(folder, **parts) -> dict[tuple[str, str], dict]:
    history = History.read(folder)
    if parts:
        built = {name: tables.BY_NAME[name].build(rows) for name, rows in parts.items()}
        history = history.commit(append=built)
    with history.as_of(AT) as snapshot:
        found = health(snapshot)
    assert found.schema.equals(SCHEMA)
    return {(row["check"], row["subject"]): row for row in found.to_pylist()}


# by hand


def test_an_empty_history_is_unknown_not_well(tmp_path):
    found = look(tmp_path)
    assert {row["status"] for row in found.values()} == {"unknown"}


def test_stale_data_an_empty_batch_silence_and_pressure_are_warned_of(tmp_path):
    found = look(
        tmp_path,
        orders=[order(20), order(9)],
        decisions=[*decisions("b1", 11, contacts=8), *decisions("b2", 4, contacts=1)],
        batches=[limit("email", 9.5, 2.0), limit("sms", 9.5, 0.0), limit("push", 3.0, 1.0)],
    )
    assert found["data is fresh", "orders"]["status"] == "warning"
    assert found["data is fresh", "orders"]["value"] == 9
    assert found["batch is full", "b2"]["status"] == "warning"
    assert found["batch is answered", "b2"]["status"] == "warning"
    pressed = {
        subject: row["status"] for (check, subject), row in found.items() if check == "limit leaves room"
    }
    assert pressed == {"policy email": "warning", "policy sms": "ok", "policy push": "ok"}


def test_a_sound_workspace_is_ok(tmp_path):
    touches = [
        {"touch_id": "t", "customer_id": "c1", "touched_at": ago(3), "channel": "email", "kind": "sent"}
        | {"decision_id": "b20", "cost": 0.0}
    ]
    found = look(
        tmp_path,
        orders=[order(1)],
        touches=touches,
        decisions=[*decisions("b1", 11, contacts=5), *decisions("b2", 4, contacts=5)],
    )
    known = {key: row["status"] for key, row in found.items() if key != ("data is fresh", "events")}
    assert set(known.values()) == {"ok"}


def test_a_value_that_drops_features_that_move_and_uneven_arms_are_warned_of(tmp_path):
    believed = [
        {
            **row,
            "policy_id": "softmax",
            "arm": arm,
            "expected_value": worth,
            "decision_id": f"{arm}{batch}{i}",
        }
        for arm, values in (("policy", (2.0, 0.9)), ("other", (2.0, 1.1)))
        for batch, days, worth in zip(("b1", "b2"), (11, 4), values)
        for i, row in enumerate(decisions(batch, days, contacts=5))
    ]
    features = [
        {"customer_id": f"c{i}", "as_of": ago(days), "f_moves": float(i + moved), "f_stays": float(i)}
        for days, moved in ((11, 0), (4, 150))
        for i in range(200)
    ]
    readout = {"arm": "policy", "control": "holdout", "unit": "customer", "metric": "value", "reason": ""}
    readout |= {"verdict": "keep running", "is_early": True, "n_looks": 1, "rule": "", "estimand": ""}
    found = look(
        tmp_path,
        decisions=believed,
        features=features,
        readouts=[
            readout | {"experiment_id": "e1", "p_srm": 1e-5},
            readout | {"experiment_id": "e2", "p_srm": 0.4},
        ],
    )
    status = {key: row["status"] for key, row in found.items()}
    assert status["value holds", "policy"] == "warning"
    assert status["value holds", "other"] == "ok"
    assert found["value holds", "policy"]["limit"] == 1.0
    assert status["features are stable", "f_moves"] == "warning"
    assert status["features are stable", "f_stays"] == "ok"
    assert status["arms are even", "e1"] == "warning"
    assert status["arms are even", "e2"] == "ok"


def test_all_sampled_customers_are_of_the_two_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(monitoring, "_SAMPLE", 150)
    features = [
        {"customer_id": f"c{i}", "as_of": ago(days), "f_stays": float(i)}
        for days in (60, 53, 46, 39, 32, 25, 18, 11, 4)
        for i in range(200)
    ]
    rows = [*decisions("b1", 11, contacts=5), *decisions("b2", 4, contacts=5)]
    found = look(tmp_path, decisions=rows, features=features)
    # Equal customers of equal batches: of a sample of all nine, few would be of these two, and not the same.
    assert found["features are stable", "f_stays"]["value"] == 0.0


def test_the_alert_and_the_models_page_tell_one_number_and_the_season_has_none(tmp_path):
    features = [
        {"customer_id": f"c{i}", "as_of": ago(days), "f_moves": i + 40.0 * (days == 4), "f_season": -days}
        for days in (11.0, 4.0)
        for i in range(200)
    ]
    rows = [*decisions("b1", 11, contacts=5), *decisions("b2", 4, contacts=5)]
    found = look(tmp_path, decisions=rows, features=features)
    moved = monitoring.moved(History.read(tmp_path), ago(11), ago(4)).to_pylist()
    told = {row["feature"]: row["psi"] for row in moved}
    assert found["features are stable", "f_moves"]["value"] == told["f_moves"] > 0.1
    assert told["f_season"] is None
    assert ("features are stable", "f_season") not in found
