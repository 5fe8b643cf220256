"""A small workspace with invented tables, filled as the steps would fill it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nba import tables
from nba.history import History
from pipelines import overview

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
TOML = """
[workspace]
name = "{name}"
currency = "EUR"

[reward]
window_days = 14

[limits]
capacity = {{ sms = 60 }}

[experiment]
control = "holdout"
arms = [
    {{ name = "holdout", share = 0.2, policy = "none" }},
    {{ name = "random", share = 0.2, policy = "random" }},
    {{ name = "policy", share = 0.6, policy = "champion" }},
]
"""
ACTIONS = """action_id,issue,group,name,margin,lever,starts_at,ends_at
coffee,grow,offer,Coffee offer,20,1,,
repair,care,service,Free repair check,12,1,,
"""
TREATMENTS = """treatment_id,action_id,channel,cost,cooldown_days
coffee_email,coffee,email,0.01,14
coffee_sms,coffee,sms,0.08,14
repair_email,repair,email,0.01,14
repair_push,repair,push,0.002,7
"""
IDS = ("none", "coffee_email", "coffee_sms", "repair_email", "repair_push")
CHANNEL = {"none": "none"} | {name: name.rsplit("_", 1)[1] for name in IDS[1:]}
COST = {"none": 0.0, "coffee_email": 0.01, "coffee_sms": 0.08, "repair_email": 0.01, "repair_push": 0.002}
SHARES = {"holdout": 0.2, "random": 0.2, "policy": 0.6}


def _decided(n: int, batches: int, rng: np.random.Generator) -> dict[str, list[dict[str, Any]]]:
    arms = rng.choice(list(SHARES), n, p=list(SHARES.values()))
    out: dict[str, list[dict[str, Any]]] = {"decisions": [], "outcomes": [], "touches": [], "choices": []}
    for b in range(batches):
        at = START + timedelta(weeks=b)
        for i in range(n):
            given = "none" if arms[i] == "holdout" else str(rng.choice(IDS))
            decision_id = f"b{b}-{i}"
            out["decisions"].append(
                {
                    "decision_id": decision_id,
                    "batch_id": f"b{b}",
                    "customer_id": f"c{i}",
                    "external_id": f"CRM-{i}",
                    "treatment_id": given,
                    "channel": CHANNEL[given],
                    "decided_at": at,
                    "p_action": 1.0 if arms[i] == "holdout" else 0.2,
                    "policy_id": f"p-{arms[i]}",
                    "experiment_id": "policy",
                    "arm": arms[i],
                    "p_arm": SHARES[arms[i]],
                    "expected_value": 0.1 if given != "none" else 0.0,
                    "reason": "explored among 5 eligible" if arms[i] != "holdout" else "held out",
                    "config_hash": "0",
                    "valid_until": at + timedelta(days=7),
                }
            )
            out["choices"] += [
                {
                    "decision_id": decision_id,
                    "treatment_id": name,
                    "is_eligible": arms[i] != "holdout" or name == "none",
                    "reason": "" if arms[i] != "holdout" else "holdout",
                    "p_action": (1.0 if name == "none" else 0.0) if arms[i] == "holdout" else 0.2,
                    "mean": 0.0 if name == "none" else 0.1,
                    "se": 0.05,
                    "price": 0.0,
                }
                for name in IDS
            ]
            if given != "none":
                out["touches"] += [
                    {
                        "touch_id": f"{decision_id}-{kind}",
                        "customer_id": f"c{i}",
                        "touched_at": at,
                        "kind": kind,
                        "channel": CHANNEL[given],
                        "treatment_id": given,
                        "decision_id": decision_id,
                        "cost": COST[given] if kind == "sent" else 0.0,
                    }
                    for kind in ("sent", "delivered")
                ]
            if b < batches - 1:
                bought = rng.random() < 0.1 + 0.2 * (arms[i] == "policy") * (given != "none")
                out["outcomes"].append(
                    {
                        "decision_id": decision_id,
                        "is_delivered": True,
                        "is_response": bool(bought),
                        "is_click": False,
                        "is_unsubscribe": False,
                        "reward": 20.0 * bought - COST[given],
                        "closed_at": at + timedelta(days=14),
                        "window_days": 14,
                    }
                )
    return out


def _effects() -> list[dict[str, Any]]:
    shared = {
        "experiment_id": "policy",
        "segment": "all",
        "control": "holdout",
        "n_control": 80,
        "level": 0.95,
        "method": "Welch, CUPED",
        "estimand": "effect per customer to 2026-03-30 06:00",
        "reason": "",
    }
    rows = []
    for metric, scale in (("margin", 1.0), ("orders", 0.05), ("unsubscribes", 0.001)):
        for arm, effect, half in (("random", 0.4, 0.9), ("policy", 2.5, 1.0)):
            rows.append(
                shared
                | {
                    "metric": metric,
                    "arm": arm,
                    "n": 240 if arm == "policy" else 80,
                    "mean_control": 6.0 * scale,
                    "mean": (6.0 + effect) * scale,
                    "effect": effect * scale,
                    "lower": (effect - half) * scale,
                    "upper": (effect + half) * scale,
                    "always_lower": (effect - 1.5 * half) * scale,
                    "always_upper": (effect + 1.5 * half) * scale,
                    "relative_effect": effect / 6,
                    "relative_lower": (effect - half) / 6,
                    "relative_upper": (effect + half) / 6,
                    "p_value": 0.01,
                }
            )
    return rows


def _others(n: int, batches: int, rng: np.random.Generator) -> dict[str, pa.Table]:
    limits = [
        {
            "batch_id": f"b{b}",
            "arm": "policy",
            "limit": limit,
            "decided_at": START + timedelta(weeks=b),
            "available": available,
            "used": used,
            "price": price * (1 + b / 10),
            "n_customers": 240,
        }
        for b in range(batches)
        for limit, available, used, price in (("sms", 40, 40, 0.31), ("budget", 10, 6.2, 0.0))
    ]
    credited = [
        {
            "method": method,
            "order_id": f"o{o}",
            "touch_id": f"t{o}-{channel}",
            "customer_id": f"c{o}",
            "channel": channel,
            "treatment_id": f"coffee_{channel}",
            "share": 0.5,
            "credit": credit,
        }
        for method, credit in (("last touch", 10.0), ("shapley", 8.0))
        for o in range(30)
        for channel in ("email", "sms")
    ]
    value = rng.gamma(0.5, 60.0, n)
    clv = [
        {
            "customer_id": f"c{i}",
            "as_of": START,
            "n_repeat": 2,
            "recency_days": 90.0,
            "age_days": 200.0,
            "p_alive": 0.8,
            "expected_orders": 1.5,
            "expected_margin": 20.0,
            "clv": None if i == 0 else value[i],
            "horizon_days": 365,
            "model_id": "m",
            "reason": "no purchase yet" if i == 0 else "",
        }
        for i in range(n)
    ]
    values = [
        {
            "policy_id": policy,
            "estimator": estimator,
            "batch_id": "all",
            "value": value,
            "se": 0.1,
            "lower": value - 0.2,
            "upper": value + 0.2,
            "ess": 180.0,
            "n": 400,
            "max_weight": 5.0,
            "reason": "",
        }
        for policy, value in (("arm:random", 2.2), ("softmax@m", 3.1))
        for estimator in ("ips", "doubly robust")
    ]
    shares = [
        {
            "method": "last touch",
            "channel": channel,
            "period": period,
            "is_advertising": True,
            "credited": 300.0,
            "compared": 300.0,
            "incremental": 120.0,
            "lower": 40.0,
            "upper": 200.0,
            "ratio": 2.5,
            "cost": 12.0,
            "warning": "last touch credits email 2.5 times what it caused" if channel == "email" else "",
            "source": "randomised",
            "reason": "",
        }
        for channel in ("email", "sms")
        for period in ("all", "2026-03")
    ]
    return {
        "attribution": tables.ATTRIBUTION.build(shares),
        "batches": tables.BATCHES.build(limits),
        "effects": tables.EFFECTS.build(_effects()),
        "credits": tables.CREDITS.build(credited),
        "clv": tables.CLV.build(clv),
        "policy_values": tables.POLICY_VALUES.build(values),
    }


def _people(n: int, batches: int) -> dict[str, list[dict[str, Any]]]:
    # What ingestion and features would give: half the customers bought, all came by one of two ways.
    joined = START - timedelta(days=200)
    out: dict[str, list[dict[str, Any]]] = {
        "customers": [
            {
                "customer_id": f"c{i}", "external_id": f"CRM-{i}", "joined_at": joined, "can_email": True,
                "can_sms": i % 2 == 0, "can_push": i % 4 == 0, "can_call": False, "timezone": "Europe/Madrid",
                "a_acquisition": ("search", "store")[i % 2],
            }
            for i in range(n)
        ],
        "orders": [
            {
                "order_id": f"o{i}", "customer_id": f"c{i}", "ordered_at": START - timedelta(days=1 + i % 40),
                "revenue": 50.0 + i % 7, "margin": 20.0 + i % 5, "n_items": 2, "is_return": False,
            }
            for i in range(n // 2)
        ],
        "events": [
            {
                "event_id": f"e{i}", "customer_id": f"c{i}", "occurred_at": START - timedelta(hours=i),
                "kind": "visit" if i % 3 else "complaint", "channel": "web", "detail": f"<b>/page{i}</b>",
            }
            for i in range(n)
        ],
        "identities": [
            {
                "identifier_kind": kind, "identifier_hash": f"{kind}{i}", "customer_id": f"c{i}",
                "source": "crm", "first_seen_at": joined, "joined_at": joined,
            }
            for i in range(n)
            for kind in (("crm_id", "email") if i else ("crm_id", "email", "cookie"))
        ],
        "quality": [
            {"source": "crm", "measure": "rows_in", "value": float(n), "note": ""},
            {"source": "crm", "measure": "rows_kept", "value": n - 3.0, "note": ""},
            {"source": "identity", "measure": "merges", "value": 7.0, "note": ""},
            {"source": "identity", "measure": "identifiers_email", "value": 80.0, "note": ""},
            {"source": "identity", "measure": "linked_email", "value": 0.75, "note": ""},
            {"source": "identity", "measure": "cut_email", "value": 2.0,
             "note": "shared by too many customers, so they link nobody; most shared: ab12 (9), cd34 (5)"},
            {"source": "crm", "measure": "junk_email", "value": 4.0, "note": "identifiers that name nobody"},
        ],
        "quarantine": [
            {"source": "crm", "file": "a.csv", "row_number": r, "reason": "revenue: missing", "raw": "{}"}
            for r in (3, 8, 9)
        ],
        "features": [
            {
                "customer_id": f"c{i}", "as_of": START + timedelta(weeks=b), "f_orders_28": float(i % 3),
                "f_a_acquisition_store": float(i % 2),
            }
            for b in range(batches)
            for i in range(n)
        ],
    }  # fmt: skip
    return out


def _readings(batches: int) -> dict[str, list[dict[str, Any]]]:
    end = START + timedelta(weeks=batches)
    looks = [
        {
            "experiment_id": "policy", "metric": "margin", "arm": arm,
            "looked_at": START + timedelta(weeks=w),
            "effect": effect, "se": 0.5, "bound": 2.8, "lower": effect - 1.4, "upper": effect + 1.4,
            "scale": 1.0,
        }
        for arm, effect in (("random", 0.4), ("policy", 2.5))
        for w in range(2, batches + 1)
    ]  # fmt: skip
    readouts = [
        {
            "experiment_id": "policy", "arm": arm, "control": "holdout", "unit": "customer",
            "metric": "margin", "verdict": verdict, "reason": reason, "is_early": False, "n_looks": 3,
            "p_srm": 0.7, "matured_at": end, "cost": 321.5, "ends_at": None,
            "rule": "any look, confidence sequence", "estimand": "effect of being assigned to the arm",
        }
        for arm, verdict, reason in (
            ("policy", "ship", "margin is better, and no guardrail is worse."),
            ("random", "keep running", "margin has not been measured closely enough yet."),
        )
    ]  # fmt: skip
    paths = [
        {"measure": "journeys", "item": "with an order", "conversions": 60.0, "nulls": 0.0, "margin": 900.0},
        {"measure": "path", "item": "email > sms", "conversions": 20.0, "nulls": 30.0, "margin": 300.0},
        {"measure": "path", "item": "email", "conversions": 40.0, "nulls": 90.0, "margin": 600.0},
        {"measure": "length", "item": "1", "conversions": 40.0, "nulls": 0.0, "margin": 600.0},
        {"measure": "lag_days", "item": "3", "conversions": 20.0, "nulls": 0.0, "margin": 300.0},
    ]
    return {"looks": looks, "readouts": readouts, "path_statistics": paths}


# As earlier versions wrote it, with naive rates.
CARD = "# Model m\n| treatment | response rate |\n|---|---:|\n| [x](http://y) | 0.0777 |\n"


def _gathered() -> dict[str, list[dict[str, Any]]]:
    # What training, lifetime value and evaluation would leave behind.
    version = {
        "alias": "champion", "created_at": START, "trained_at": START, "model_id": "m", "run_id": "r",
        "link": "/#/experiments/1/runs/r", "n_examples": 900.0, "base_rate": 0.07, "auc": 0.71,
        "log_loss": 0.2, "log_loss_constant": 0.23, "ece": 0.011, "qini": 0.04, "qini_lower": 0.01,
        "qini_upper": 0.07, "card": CARD,
    }  # fmt: skip
    group = {"n": 10, "n_known": 8, "p_alive": 0.9, "expected_orders": 1.0, "clv_total": 80.0}
    cell = {"repeats_from": 0, "n": 5, "p_alive": 0.7, "expected_orders": 1.0, "clv": 12.0}
    decile = {"origin_at": START, "part": "value", "n": 40}
    found: dict[str, list[dict[str, Any]]] = {
        "summary_models": [version | {"version": 2}, version | {"version": 1, "alias": "", "auc": 0.64}],
        "alerts": [
            {"alert": kind, "subject": subject, "at": START, "status": status, "value": value, "limit": 8.0,
             "note": "newest row is of 2026-03-30 05:59 UTC"}
            for kind, subject, status, value in (
                ("stale data", "orders", "warning", 9.5), ("stale data", "events", "ok", 1.0)
            )
        ],
        "summary_calibration": [{"bin": 0, "n": 9, "predicted": 0.1, "observed": 0.12}],
        "summary_qini": [{"share": x, "qini": x, "random": x / 2} for x in (0.0, 1.0)],
        "summary_deciles": [
            {"decile": 1, "n": 9, "predicted": 0.1, "observed": 0.1, "lower": 0.0, "upper": 0.2}
        ],
        "summary_importance": [
            {"model": "response", "feature": "f_orders_28", "importance": 0.4},
            {"model": "uplift", "feature": "f_visits_7", "importance": 0.1},
        ],
        "summary_dependence": [
            {"feature": "f_orders_28", "bin": b, "value": float(b), "contribution": 0.1 * b, "lower": 0.0,
             "upper": 0.3, "n": 50}
            for b in range(2)
        ],
        "summary_drift": [
            {"feature": "f_orders_28", "psi": 0.3, "mean_before": 1.0, "mean_now": 2.0,
             "unknown_before": 0.0, "unknown_now": 0.1}
        ],
        "summary_checks": [
            {"check": "too young", "subject": "repair_push", "status": "warning", "value": 12.0,
             "limit": 100.0},
            {"check": "never chosen", "subject": "coffee_sms", "status": "ok", "value": 80.0, "limit": 1.0},
        ],
        "clv_groups": [
            group | {"attribute": "a_acquisition", "item": item, "clv": clv, "clv_at_risk": 3.0}
            for item, clv in (("search", 9.0), ("store", 14.5))
        ],
        "clv_grid": [
            cell | {"repeats": "0", "quiet": q, "quiet_from": d} for q, d in (("0-29", 0), ("30-59", 30))
        ],
        "clv_deciles": [decile | {"decile": d, "forecast": 4.0 * d, "observed": 3.0 * d} for d in (1, 2)],
        "ablations": [
            {"versus": versus, "method": method, "policy_id": "champion", "value": low + 0.2, "lower": low,
             "upper": low + 0.4, "level": 0.95, "n": 300, "ess": 80.0,
             "max_weight": 12.0, "reason": "", "doubt": ""}
            for versus, method, low in (
                ("random", "randomised arms", 0.1), ("response only", "randomised arms", 0.0),
                ("random", "off-policy", 0.3), ("response only", "off-policy", 0.6),
            )
        ],
        "value_finder": [
            {"batch_id": "b3", "segment": "orders in 28 days: at most 1", "n": 100, "n_nothing": 60,
             "best": 0.2, "blocked": 1.5, "blocked_total": 150.0, "reason": "no consent"},
            {"batch_id": "b3", "segment": "orders in 28 days: at least 2", "n": 50, "n_nothing": 5,
             "best": 2.0, "blocked": 0.1, "reason": ""},
        ],
    }  # fmt: skip
    return found


def make(root: Path, n: int = 400, batches: int = 4, *, filled: bool = True) -> Path:
    """Write a workspace; without `filled`, only its configuration and catalog."""
    (root / "catalog").mkdir(parents=True)
    (root / "nba.toml").write_text(TOML.format(name=root.name), encoding="utf-8")
    (root / "catalog" / "actions.csv").write_text(ACTIONS, encoding="utf-8")
    (root / "catalog" / "treatments.csv").write_text(TREATMENTS, encoding="utf-8")
    if filled:
        rng = np.random.default_rng(5)
        rows = _decided(n, batches, rng) | _people(n, batches) | _readings(batches)
        made = {name: tables.BY_NAME[name].build(found) for name, found in rows.items()}
        History.read(root).commit(replace=made | _others(n, batches, rng))
        known = {name: found for name, found in _gathered().items() if name in tables.BY_NAME}
        History.read(root).commit(
            replace={name: tables.BY_NAME[name].build(found) for name, found in known.items()}
        )
        overview.overview(root, START + timedelta(weeks=batches))
        record(root, "nightly-20260330T060000", "done")
    return root


def record(root: Path, run_id: str, status: str) -> None:
    """Write the record of a run whose last step ended with a status."""
    steps = {
        "ingest": {"status": "done", "started": START.isoformat(), "seconds": 3.5, "numbers": {"rows": 397}},
        "decide": {"status": status, "started": START.isoformat(), "seconds": 1.5},
    }
    if status == "failed":
        steps["decide"] |= {"error": "no customer can be decided", "hint": "Mend it."}
    run = {"run_id": run_id, "at": START.isoformat(), "config_hash": "0", "status": status, "steps": steps}
    path = root / "runs" / f"{run_id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(run), encoding="utf-8")
