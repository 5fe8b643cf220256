"""Effects of treatments and their traffic, read from decisions whose probabilities learned."""

from datetime import UTC, datetime, timedelta

import numpy as np

from nba import tables
from nba.experiments import actions, adaptive
from nba.experiments.actions import action_effects, traffic
from nba.history import History

START = datetime(2026, 1, 1, tzinfo=UTC)


def logged(folder, decided):
    """Keep decisions for or against a mail: key, week, whether mailed, chances of both, reward."""
    rows, choices, outcomes = [], [], []
    for key, week, a, p, reward in decided:
        at = START + timedelta(days=7 * week)
        rows.append(
            {
                "decision_id": key, "batch_id": f"b{week}", "customer_id": f"c{key}",
                "treatment_id": ("none", "mail")[a], "channel": ("none", "email")[a], "decided_at": at,
                "p_action": p[a], "policy_id": "p", "reason": "", "config_hash": "", "valid_until": at,
                "arm": "policy", "experiment_id": "policy",
            }
        )  # fmt: skip
        choices += [
            {
                "decision_id": key, "treatment_id": name, "is_eligible": True, "reason": "",
                "p_action": p[j], "price": 0.0,
            }
            for j, name in enumerate(("none", "mail"))
        ]  # fmt: skip
        outcomes.append(
            {
                "decision_id": key, "is_delivered": True, "is_response": False, "is_click": False,
                "is_unsubscribe": False, "reward": reward, "window_days": 7,
                "closed_at": at + timedelta(days=7),
            }
        )  # fmt: skip
    made = {"decisions": tables.DECISIONS.build(rows), "choices": tables.CHOICES.build(choices)}
    made["outcomes"] = tables.OUTCOMES.build(outcomes)
    return History.read(folder).commit(append=made)


# by hand


def test_effects_of_actions_hardly_ever_chosen_or_rewarded_are_unknown():
    n, names = 1000, ["mail", "none"]
    rng = np.random.default_rng(3)
    p_action = np.tile([0.1, 0.9], (n, 1))
    zeros, batch = np.zeros((n, 2)), np.zeros(n, dtype=np.int64)
    for chosen, reward, words in (
        (np.arange(n) >= 20, rng.normal(size=n), "20 did and 980 had no contact"),
        (np.arange(n) >= 100, (np.arange(n) % 25 == 0) * 9.0, "of 100 decisions that had it, 4 had another"),
        (np.arange(n) >= 100, (np.arange(n) < 50) * 9.0, "of 900 decisions that had no contact, 0 had"),
        (np.arange(n) >= 100, (np.arange(n) % 5 == 0) * 9.0, ""),
    ):
        log = adaptive.Log(reward, chosen.astype(np.int64), p_action, batch, zeros)
        row = actions._row(log, names, "mail", 0.95)
        assert words in row["reason"]
        assert (
            (row["effect"] is None) == (row["lower"] is None) == (row["always_lower"] is None) == bool(words)
        )


# recovery


def test_effects_of_actions_are_found_in_decisions_that_learned(tmp_path):
    rng = np.random.default_rng(1)
    n, batches = 400, 5
    decided = []
    for b in range(batches):
        p = np.array([0.3 - 0.04 * b, 0.7 + 0.04 * b])
        for i in range(n):
            a = int(rng.random() > p[0])
            decided.append((f"{b}-{i}", b, a, p, 0.5 * a + rng.normal() + b))
    history = logged(tmp_path, decided)
    with history.as_of(START + timedelta(days=100)) as snapshot:
        found = action_effects(snapshot).to_pylist()
    assert [row["treatment_id"] for row in found] == ["mail"]
    row = found[0]
    assert row["lower"] < 0.5 < row["upper"]
    assert row["always_lower"] < row["lower"]
    assert row["n"] == n * batches


def test_traffic_that_learned_is_held_against_its_logged_probabilities(tmp_path):
    rng = np.random.default_rng(2)
    for wrong in (False, True):
        decided = []
        for i in range(1200):
            p = np.array([0.2, 0.8]) if i % 3 else np.array([0.6, 0.4])
            a = int(rng.random() > (0.5 if wrong else p[0]))
            decided.append((str(i), i % 3, a, p, rng.normal()))
        history = logged(tmp_path / str(wrong), decided)
        with history.as_of(START + timedelta(days=100)) as snapshot:
            found, effects = traffic(snapshot, "policy", "policy"), action_effects(snapshot).to_pylist()
            assert np.isnan(traffic(snapshot, "policy", "nobody").p_value)
        assert found.is_alarm == wrong
        assert ("logged probabilities" in effects[0]["reason"]) == wrong
        assert (effects[0]["effect"] is None) == wrong
