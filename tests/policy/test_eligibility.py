from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.errors import DataError, SettingsError
from nba.history import History
from nba.policy.eligibility import REASONS, Terms, eligible, removals, removed
from nba.settings import ContactPolicy, Engagement, FrequencyCap, Limits, Purpose, Rule, SendWindow

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


def test_contacts_of_treatments_that_are_no_longer_offered_still_count(tmp_path):
    people = [customer(name) for name in ("mail", "lost", "free")]
    given = [decision("mail", 3, "sale_mail"), decision("lost", 3, "gone_mail")]
    gone = Catalog((Action("gone", "s", "s", "Gone", 1.0),), (Treatment("gone_mail", "gone", "email", 0.1),))
    kept = [pa.concat_tables(pair) for pair in zip(SHOP.to_tables(), gone.to_tables())]
    History.read(tmp_path).commit(replace=dict(zip(("actions", "treatments"), kept)))
    left = Catalog(SHOP.actions[:2], SHOP.treatments[1:3])
    bought = ContactPolicy(name="pause", level="group", after="sent", pause_days=5, only=("s",))
    # The first has the same action on another channel, the second nothing that is still in the catalog.
    assert apply(tmp_path, people, (), given, catalog=left)["mail"] == ["", "cooldown", ""]
    with History.read(tmp_path).as_of(AT) as snapshot:
        ids = pa.array([row["customer_id"] for row in people])
        one = eligible(snapshot, left, Limits(), ids, Engagement(issue_days=10)).is_eligible
        every = eligible(snapshot, left, Limits(), ids, Engagement(contact_policies=(bought,))).is_eligible
    np.testing.assert_array_equal(one, [[1, 0, 0], [1, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(every, [[1, 0, 0], [1, 0, 0], [1, 1, 1]])


def test_a_contact_counts_once_towards_the_frequency_cap(tmp_path):
    limits = Limits(contact_days=28, max_contacts=2)
    ours = [
        touch("once", 4, kind, decision_id="d-once-5", treatment_id="club_mail")
        for kind in ("sent", "delivered")
    ]
    # Without a decision's id: the decision's own, and another's where the decision's feed works.
    plain = [touch("plain", 4, kind) for kind in ("sent", "delivered")]
    fed = [touch("fed", 4, decision_id="d-fed-5"), touch("fed", 3)]
    theirs = [touch("theirs", days, kind) for days in (3, 9) for kind in ("sent", "delivered", "clicked")]
    found = apply(
        tmp_path,
        [customer(name) for name in ("once", "theirs", "mixed", "past", "nothing", "plain", "fed")],
        [*ours, *theirs, touch("mixed", 2), touch("past", 28), touch("past", 3), *plain, *fed],
        [decision(name, 5, "club_mail") for name in ("once", "plain", "fed")]
        + [decision("mixed", 9, "club_mail")]
        + [decision("nothing", days, "none") for days in (3, 5, 9)],
        limits,
    )
    capped = ["frequency cap"] * 3
    assert found["theirs"][1:4] == found["mixed"][1:4] == found["fed"][1:4] == capped
    assert (
        found["once"][1:4] == found["past"][1:4] == found["nothing"][1:4] == found["plain"][1:4] == [""] * 3
    )


def test_a_channel_without_consent_column_is_refused(tmp_path):
    letters = Catalog((Action("a", "s", "s", "A", 1.0),), (Treatment("t", "a", "letter", 1.0),))
    with pytest.raises(DataError, match=r"sends on \['letter'\]; customers hold consent for"):
        apply(tmp_path, [customer("a")], catalog=letters)


def test_a_customer_that_is_not_known_is_refused(tmp_path):
    history = History.read(tmp_path).commit(append={"customers": tables.CUSTOMERS.build([customer("a")])})
    with history.as_of(AT) as snapshot, pytest.raises(DataError, match="1 of 2 customers are not known"):
        eligible(snapshot, SHOP, Limits(), pa.array(["a", "b"]))


MADRID = customer("a", timezone="Europe/Madrid")
PLAIN = Catalog(SHOP.actions, tuple(replace(one, cooldown_days=0) for one in SHOP.treatments))


def engage(folder, customers, touches=(), decisions=(), orders=(), at=AT, features=None, terms=None, **more):
    terms = terms or Terms(zone="Europe/Madrid")
    history = History.read(folder).commit(
        append={
            "customers": tables.CUSTOMERS.build(customers),
            "touches": tables.TOUCHES.build(touches),
            "decisions": tables.DECISIONS.build(decisions),
            "orders": tables.ORDERS.build(orders),
        }
    )
    ids = pa.array([row["customer_id"] for row in customers])
    loose = Limits(max_contacts=1000)
    with history.as_of(at) as snapshot:
        found = eligible(snapshot, PLAIN, loose, ids, Engagement(**more), features, terms)
    return found, {
        name: [found.reasons[code] for code in found.reason[i][1:4]] for i, name in enumerate(ids.to_pylist())
    }


def test_rules_remove_what_is_not_true_by_stage_and_keep_their_name(tmp_path):
    people = [customer(name, a_segment=segment) for name, segment in zip("abc", ["gold", "blue", None])]
    features = pa.table({"customer_id": ["a", "b", "c"], "f_orders": [3.0, 0.0, None]})
    rules = (
        Rule(name="for buyers", stage="suitability", keep="f_orders > 0", actions=("club",)),
        Rule(name="gold by sms", keep="a_segment = 'gold'", channels=("sms",)),
        Rule(
            name="not here",
            stage="applicability",
            keep="decided_at < timestamptz '2020-01-01'",
            groups=("x",),
        ),
    )
    with pytest.raises(SettingsError, match=r"'not here' names \['x'\]; the catalog has \['s'\]"):
        engage(tmp_path / "wrong", people, features=features, rules=rules)
    found, words = engage(tmp_path, people, features=features, rules=rules[:2])
    assert words["a"] == ["", "", ""]
    assert words["b"] == words["c"] == ["", "gold by sms", "for buyers"]
    counts = removed(found.reason, len(found.reasons))
    table = removals("b", counts, Engagement(rules=rules[:2]), SHOP).to_pylist()
    assert {
        "batch_id": "b",
        "treatment_id": "club_mail",
        "stage": "suitability",
        "rule": "for buyers",
        "n_customers": 2,
    } in table
    kept = {"batch_id": "b", "treatment_id": "sale_mail"}
    assert kept | {"stage": "kept", "rule": "", "n_customers": 3} in table


def test_rules_that_cannot_be_used_are_named_all_at_once(tmp_path):
    rules = (
        Rule(name="first", keep="f_unknown > 1"),
        Rule(name="second", keep="a_segment in (select 1)"),
    )
    purposes = (Purpose(name="third", column="a_marketing"),)
    with pytest.raises(SettingsError) as error:
        engage(tmp_path, [customer("a", a_segment="x")], rules=rules, purposes=purposes)
    for part in (
        "rule 'first'",
        "'f_unknown'",
        "rule 'second'",
        "subquery",
        "purpose 'third'",
        "'a_marketing'",
    ):
        assert part in error.value.message
    asked = [Rule(name=x, keep=f"a_segment {how}") for x, how in (("x", "> 3"), ("y", "= 'x'"), ("z", "= 4"))]
    with pytest.raises(SettingsError, match=r"cannot be answered:\n- rule 'x': .*\n- rule 'z': .*\n[^-]*$"):
        engage(tmp_path / "t", [customer("a", a_segment="x")], rules=tuple(asked))


def test_consent_is_by_purpose_too_and_unknown_is_no(tmp_path):
    people = [customer(name, a_ads=yes) for name, yes in zip("abc", [True, False, None])]
    ads = (Purpose(name="no consent to ads", column="a_ads", issues=("s",), channels=("email",)),)
    _, words = engage(tmp_path, people, purposes=ads)
    assert words["a"] == ["", "", ""]
    assert words["b"] == words["c"] == ["no consent to ads", "", "no consent to ads"]


@pytest.mark.parametrize("said", [("yes", "no", None), (1.0, 0.0, None), ("Sí", "opted out", "")])
def test_consent_by_purpose_is_read_as_files_tell_it(tmp_path, said):
    people = [customer(name, a_ads=one) for name, one in zip("abc", said)]
    ads = (Purpose(name="no consent to ads", column="a_ads", issues=("s",)),)
    _, words = engage(tmp_path, people, purposes=ads)
    assert [bool(words[name][0]) for name in "abc"] == [False, True, True]


def test_a_pause_begins_with_the_time_that_makes_it_enough(tmp_path):
    ages_of = {"twice": (9, 4), "apart": (20, 4), "once": (4,), "over": (20, 14), "edge": (14, 10)}
    refusals = [
        touch(name, days, "refused", treatment_id="sale_mail")
        for name, ages in ages_of.items()
        for days in ages
    ]
    pause = ContactPolicy(name="refused", after="refused", times=2, within_days=7, pause_days=10)
    people = [customer(name) for name in ("twice", "apart", "once", "over", "edge")]
    _, words = engage(tmp_path, people, refusals, contact_policies=(pause,))
    assert words["twice"] == ["refused", "refused", ""]
    assert all(words[name] == ["", "", ""] for name in ("apart", "once", "over", "edge"))


def test_what_is_counted_sent_seen_bought(tmp_path):
    made = [decision(name, 6, "sale_mail") for name in ("sent", "seen", "bought", "before", "lost")]
    touches = [
        touch("seen", 5, "seen", decision_id="d-seen-6"),
        touch("seen", 4, "seen", decision_id="d-seen-6"),
        touch("lost", 5, "failed", decision_id="d-lost-6"),
    ]
    bought = (("bought", 4, False), ("bought", 1, False), ("before", 7, False), ("seen", 3, True))
    orders = [
        {"order_id": f"o-{name}-{days}", "customer_id": name, "ordered_at": ago(days), "is_return": back,
         "revenue": 5.0, "margin": 5.0, "n_items": 1}
        for name, days, back in bought
    ]  # fmt: skip
    people = [customer(name) for name in ("sent", "seen", "bought", "before", "lost", "other")]

    def told(after, times=1, pause=30, window=14):
        policy = ContactPolicy(name="pause", after=after, times=times, pause_days=pause, level="treatment")
        folder = tmp_path / f"{after}{times}{pause}{window}"
        asked = {"terms": Terms(window_days=window), "contact_policies": (policy,)}
        _, words = engage(folder, people, touches, made, orders, **asked)
        return {name for name, found in words.items() if found == ["pause", "", ""]}

    assert told("sent") == {"sent", "seen", "bought", "before"}
    assert told("seen") == {"seen"}
    assert told("seen", times=2) == set()
    # From the purchase on, while the window is open too; the second purchase is of the same decision.
    assert told("bought") == told("bought", pause=4.1) == {"bought"}
    assert told("bought", pause=4) == set()
    assert told("bought", window=2) == set()


def test_caps_count_by_level_in_rolling_windows(tmp_path):
    touches = [touch("a", days, treatment_id="sale_mail", touch_id=f"t{days}") for days in (1, 6.99, 7)]
    people = [customer("a"), customer("b")]

    def told(**more):
        cap = FrequencyCap(name="cap", days=7, **more)
        folder = tmp_path / "-".join(str(x) for x in more.values())
        _, words = engage(folder, people, touches, frequency_caps=(cap,))
        assert words["b"] == (["cap"] * 3 if more["most"] == 0 else ["", "", ""])
        return words["a"]

    assert told(most=2) == ["cap"] * 3
    assert told(most=3) == ["", "", ""]
    assert told(most=2, level="action") == ["cap", "cap", ""]
    assert told(most=2, level="channel") == ["cap", "", "cap"]
    assert told(most=2, level="channel", only=("sms",)) == ["", "", ""]
    assert told(most=2, level="issue") == ["cap"] * 3
    assert told(most=0) == ["cap"] * 3


@pytest.mark.parametrize(
    ("calendar", "last", "counts"),
    [
        # Madrid's clocks went forward on Sunday 29 March 2026 at 01:00 UTC; it is 20:00 UTC, 22:00 there.
        ("day", datetime(2026, 3, 28, 23, 0, tzinfo=UTC), True),
        ("day", datetime(2026, 3, 28, 22, 59, tzinfo=UTC), False),
        ("week", datetime(2026, 3, 22, 23, 0, tzinfo=UTC), True),
        ("week", datetime(2026, 3, 22, 22, 59, tzinfo=UTC), False),
        ("month", datetime(2026, 2, 28, 23, 0, tzinfo=UTC), True),
        ("month", datetime(2026, 2, 28, 22, 59, tzinfo=UTC), False),
    ],
)
def test_calendar_windows_begin_at_local_midnight_over_the_change_of_clocks(tmp_path, calendar, last, counts):
    at = datetime(2026, 3, 29, 20, tzinfo=UTC)
    row = touch("a", 0) | {"touched_at": last}
    cap = FrequencyCap(name="cap", most=1, calendar=calendar)
    _, words = engage(tmp_path, [MADRID], [row], at=at, frequency_caps=(cap,))
    assert words["a"] == (["cap"] * 3 if counts else ["", "", ""])


def test_rolling_windows_are_of_whole_24_hours_over_the_change_of_clocks(tmp_path):
    at = datetime(2026, 3, 29, 10, tzinfo=UTC)
    for hours, counts in ((23.99, True), (24, False)):
        row = touch("a", 0) | {"touched_at": at - timedelta(hours=hours)}
        cap = FrequencyCap(name="cap", most=1, days=1)
        folder = tmp_path / str(hours)
        _, words = engage(folder, [MADRID], [row], at=at, frequency_caps=(cap,))
        assert (words["a"] == ["cap"] * 3) == counts


def test_one_active_action_per_issue_on_every_channel(tmp_path):
    waits = "another action of the issue is active"
    made = [decision("a", 3, "sale_mail"), decision("b", 30, "sale_mail"), decision("c", 3, "club_mail")]
    people = [customer(name) for name in "abcd"]
    touches = [touch("c", 9, treatment_id="sale_mail")]
    _, words = engage(tmp_path, people, touches, made, issue_days=20)
    assert words["a"][2] == waits
    assert words["b"] == words["d"] == ["", "", ""]
    assert words["c"] == [waits, waits, ""]


def test_quiet_hours_remove_what_cannot_be_sent_before_it_lapses(tmp_path):
    people = [customer("a", timezone="Europe/Madrid"), customer("b", timezone="Asia/Tokyo"), customer("c")]
    quiet = (SendWindow(channels=("sms",), opens="09:00", closes="14:00"),)
    until = AT + timedelta(hours=1.5)  # 07:30 UTC: 08:30 in Madrid, 16:30 in Tokyo
    _, words = engage(tmp_path, people, terms=Terms(until, "Europe/Madrid"), send_windows=quiet)
    assert {name: found[1] for name, found in words.items()} == dict.fromkeys("abc", "quiet until it lapses")
    _, words = engage(
        tmp_path / "later", people, terms=Terms(AT + timedelta(hours=3), "Europe/Madrid"), send_windows=quiet
    )
    assert {name: found[1] for name, found in words.items()} == {
        "a": "",
        "b": "quiet until it lapses",
        "c": "",
    }


def test_names_of_rules_are_their_own():
    with pytest.raises(ValueError, match=r"names \['x'\] stand twice"):
        Engagement(
            rules=(Rule(name="x", keep="true"),), frequency_caps=(FrequencyCap(name="x", most=1, days=1),)
        )
    for name in ("cooldown", "No consent", "none", " "):
        with pytest.raises(ValueError, match=rf"names \['{name}'\] cannot be told from"):
            Engagement(rules=(Rule(name=name, keep="true"),))
    with pytest.raises(ValueError, match="needs either days or calendar"):
        FrequencyCap(name="x", most=1)


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
