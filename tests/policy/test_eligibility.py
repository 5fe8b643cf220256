from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError
from nba.history import History
from nba.policy.eligibility import REASONS, eligible
from nba.settings import Limits

AT = datetime(2026, 3, 2, 6, tzinfo=UTC)
SHOP = Catalog(
    (
        Action("sale", "s", "s", "Sale", 20.0),
        Action("club", "s", "s", "Club", 50.0),
        Action("old", "s", "s", "Old", 50.0, ends_at=AT),
    ),
    (
        Treatment("sale_mail", "sale", "email", 0.1, cooldown_days=14),
        Treatment("sale_sms", "sale", "sms", 0.5, cooldown_days=7),
        Treatment("club_mail", "club", "email", 0.1),
        Treatment("old_mail", "old", "email", 0.1),
    ),
)


def ago(days: float) -> datetime:
    return AT - timedelta(days=days)


def customer(name: str, **more) -> dict:
    consent = {f"can_{channel}": True for channel in tables.CHANNELS}
    return {"customer_id": name, "external_id": f"x-{name}", "joined_at": ago(400)} | consent | more


def touch(name: str, days: float, kind: str = "sent", **more) -> dict:
    base = {
        "touch_id": f"{name}{days}{kind}{sorted(more.items())}",
        "customer_id": name,
        "touched_at": ago(days),
    }
    return base | {"channel": "email", "kind": kind, "cost": 0.0} | more


def decision(name: str, days: float, treatment: str) -> dict:
    return {
        "decision_id": f"d-{name}-{days}",
        "batch_id": "b",
        "customer_id": name,
        "treatment_id": treatment,
        "channel": "email",
        "decided_at": ago(days),
        "p_action": 0.5,
        "policy_id": "p",
        "reason": "",
        "config_hash": "",
        "valid_until": ago(days - 7),
    }


def apply(folder, customers, touches=(), decisions=(), limits: Limits | None = None, catalog=SHOP):
    history = History.read(folder).commit(
        append={
            "customers": tables.CUSTOMERS.build(customers),
            "touches": tables.TOUCHES.build(touches),
            "decisions": tables.DECISIONS.build(decisions),
        }
    )
    ids = pa.array(sorted(row["customer_id"] for row in customers))
    with history.as_of(AT) as snapshot:
        found = eligible(snapshot, catalog, limits or Limits(), ids)
    words = {
        name: [REASONS[code] for code in found.reason[i]]
        for i, name in enumerate(found.customer_ids.to_pylist())
    }
    np.testing.assert_array_equal(found.is_eligible, found.reason == 0)
    return words


# by hand


def test_consent_reach_and_dates(tmp_path):
    found = apply(
        tmp_path,
        [
            customer("free"),
            customer("no_sms", can_sms=False),
            customer("unknown", external_id=None),
            customer("left"),
        ],
        [touch("left", 5, "unsubscribed"), touch("free", -1, "unsubscribed")],
    )
    stopped = "action not running"
    assert found["free"] == ["", "", "", "", stopped]
    assert found["no_sms"] == ["", "", "no consent", "", stopped]
    assert found["unknown"] == ["", *["no external id"] * 3, stopped]
    assert found["left"] == ["", "opted out", "", "opted out", stopped]


def test_cooldown_is_of_the_action_and_as_long_as_the_treatment_says(tmp_path):
    found = apply(
        tmp_path,
        [customer(name) for name in ("recent", "older", "edge", "decided", "refused")],
        [
            touch("recent", 3, treatment_id="sale_mail"),
            touch("older", 10, treatment_id="sale_sms", channel="sms"),
            touch("edge", 14, treatment_id="sale_mail"),
            touch("refused", 2, "refused", decision_id="d-refused-3"),
        ],
        [decision("decided", 3, "sale_mail"), decision("refused", 3, "sale_mail")],
    )
    assert found["recent"][1:4] == found["decided"][1:4] == ["cooldown", "cooldown", ""]
    assert found["older"][1:4] == ["cooldown", "", ""]
    assert found["edge"][1:4] == found["refused"][1:4] == ["", "", ""]


def test_a_contact_counts_once_towards_the_frequency_cap(tmp_path):
    limits = Limits(contact_days=28, max_contacts=2)
    ours = [
        touch("once", 4, kind, decision_id="d-once-5", treatment_id="club_mail")
        for kind in ("sent", "delivered")
    ]
    theirs = [touch("theirs", days, kind) for days in (3, 9) for kind in ("sent", "delivered", "clicked")]
    found = apply(
        tmp_path,
        [customer(name) for name in ("once", "theirs", "mixed", "past", "nothing")],
        [*ours, *theirs, touch("mixed", 2), touch("past", 28), touch("past", 3)],
        [decision("once", 5, "club_mail"), decision("mixed", 9, "club_mail")]
        + [decision("nothing", days, "none") for days in (3, 5, 9)],
        limits,
    )
    capped = ["frequency cap"] * 3
    assert found["theirs"][1:4] == found["mixed"][1:4] == capped
    assert found["once"][1:4] == found["past"][1:4] == found["nothing"][1:4] == [""] * 3


def test_a_channel_without_consent_column_is_refused(tmp_path):
    letters = Catalog((Action("a", "s", "s", "A", 1.0),), (Treatment("t", "a", "letter", 1.0),))
    with pytest.raises(DataError, match=r"sends on \['letter'\]; customers hold consent for"):
        apply(tmp_path, [customer("a")], catalog=letters)


def test_a_customer_that_is_not_known_is_refused(tmp_path):
    history = History.read(tmp_path).commit(append={"customers": tables.CUSTOMERS.build([customer("a")])})
    with history.as_of(AT) as snapshot, pytest.raises(DataError, match="1 of 2 customers are not known"):
        eligible(snapshot, SHOP, Limits(), pa.array(["a", "b"]))


# laws


def test_none_is_always_eligible_and_order_does_not_matter(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(40)]
    people = [
        customer(x, can_email=bool(rng.random() < 0.5), can_sms=bool(rng.random() < 0.5)) for x in names
    ]
    touches = [
        touch(str(rng.choice(names)), float(rng.integers(1, 40)), treatment_id="sale_mail", touch_id=str(i))
        for i in range(80)
    ]
    history = History.read(tmp_path).commit(
        append={"customers": tables.CUSTOMERS.build(people), "touches": tables.TOUCHES.build(touches)}
    )
    order = rng.permutation(40)
    with history.as_of(AT) as snapshot:
        found = eligible(snapshot, SHOP, Limits(), pa.array(names))
        mixed = eligible(snapshot, SHOP, Limits(), pa.array([names[i] for i in order]))
    assert found.is_eligible[:, 0].all()
    assert not found.is_eligible.all()
    np.testing.assert_array_equal(mixed.reason, found.reason[order])
