from datetime import UTC, datetime, timedelta

import pytest

from nba import tables
from nba.catalog import Action, Catalog, Treatment
from nba.feedback import corrections, outcomes, refused, settled, waiting
from nba.history import History
from nba.settings import Reward

START = datetime(2026, 3, 2, 6, tzinfo=UTC)
SHOP = Catalog((Action("sale", "s", "s", "Sale", 20.0),), (Treatment("mail", "sale", "email", 0.25),))
REWARD = Reward(window_days=14)


def day(days: float) -> datetime:
    return START + timedelta(days=days)


def decision(name: str, treatment: str = "mail", at: float = 0.0) -> dict:
    return {
        "decision_id": f"d-{name}",
        "batch_id": "b",
        "customer_id": name,
        "treatment_id": treatment,
        "channel": "email" if treatment != "none" else "none",
        "decided_at": day(at),
        "p_action": 0.5,
        "policy_id": "p",
        "reason": "",
        "config_hash": "",
        "valid_until": day(at + 7),
    }


def order(name: str, at: float, margin: float, *, is_return: bool = False) -> dict:
    base = {"order_id": f"{name}{at}", "customer_id": name, "ordered_at": day(at)}
    return base | {"revenue": 2 * margin, "margin": margin, "n_items": 1, "is_return": is_return}


def touch(name: str, at: float, kind: str, *, cost: float = 0.0, ours: bool = True) -> dict:
    base = {"touch_id": f"{name}{at}{kind}", "customer_id": name, "touched_at": day(at)}
    return base | {
        "channel": "email",
        "kind": kind,
        "cost": cost,
        "decision_id": f"d-{name}" if ours else None,
    }


@pytest.fixture
def history(tmp_path):
    decisions = [decision(name) for name in ("buyer", "silent", "failed", "free", "leaver")]
    decisions += [decision("nobody", "none"), decision("later", at=3)]
    orders = [
        order("buyer", 0, 10.0), order("buyer", 5, -4.0, is_return=True), order("buyer", 14, 100.0),
        order("buyer", -1, 100.0), order("silent", 20, 5.0), order("nobody", 13.9, 7.0),
        order("failed", 2, -3.0, is_return=True),
    ]  # fmt: skip
    touches = [
        touch("buyer", 0.1, "sent", cost=0.3), touch("buyer", 0.2, "delivered"), touch("buyer", 1, "clicked"),
        touch("failed", 0.1, "sent"), touch("failed", 0.2, "failed"),
        touch("free", 0.1, "delivered"), touch("free", 15, "clicked"),
        touch("leaver", 3, "unsubscribed", ours=False), touch("nobody", 3, "clicked", ours=False),
    ]  # fmt: skip
    return History.read(tmp_path).commit(
        append={
            "decisions": tables.DECISIONS.build(decisions),
            "orders": tables.ORDERS.build(orders),
            "touches": tables.TOUCHES.build(touches),
        }
    )


def closed(history: History, at: float) -> dict[str, dict]:
    with history.as_of(day(at)) as snapshot:
        found = outcomes(snapshot, SHOP, REWARD)
    return {row["decision_id"].removeprefix("d-"): row for row in found.to_pylist()}


# by hand


def test_outcomes_are_what_fell_into_the_window(history):
    found = closed(history, 14)
    assert sorted(found) == ["buyer", "failed", "free", "leaver", "nobody", "silent"]
    rewards = {name: row["reward"] for name, row in found.items()}
    assert rewards == pytest.approx(
        {"buyer": 10 - 4 - 0.3, "failed": -3.0, "free": -0.25, "leaver": 0.0, "nobody": 7.0, "silent": 0.0}
    )
    flags = {kind: {name for name, row in found.items() if row[f"is_{kind}"]} for kind in
             ("delivered", "response", "click", "unsubscribe")}  # fmt: skip
    assert flags["delivered"] == {"buyer", "free", "nobody"}
    assert flags["response"] == {"buyer", "nobody"}
    assert flags["click"] == {"buyer"}
    assert flags["unsubscribe"] == {"leaver"}
    assert {row["closed_at"] for row in found.values()} == {day(14)}


# laws


def test_a_window_closes_once_and_not_before_its_end(history):
    assert closed(history, 13.99) == {}
    with history.as_of(day(14)) as snapshot:
        first = outcomes(snapshot, SHOP, REWARD)
    after = history.commit(append={"outcomes": first})
    assert sorted(closed(after, 14)) == []
    assert sorted(closed(after, 17)) == ["later"]
    assert after.broken_laws() == []


def test_a_window_waits_for_data_that_reach_its_end(history):
    # The last thing known is a click on day 15: silence after it is no answer yet.
    late = history.commit(append={"decisions": tables.DECISIONS.build([decision("last", at=10)])})
    with late.as_of(day(24)) as snapshot:
        assert "d-last" not in outcomes(snapshot, SHOP, REWARD)["decision_id"].to_pylist()
        assert waiting(snapshot, REWARD) == 1
        patient = Reward(window_days=14, wait_days=9)
        assert "d-last" in outcomes(snapshot, SHOP, patient)["decision_id"].to_pylist()
    more = late.commit(append={"orders": tables.ORDERS.build([order("buyer", 22, 1.0)])})
    assert "last" in closed(more, 24)
    with more.as_of(day(24)) as snapshot:
        assert waiting(snapshot, REWARD) == 0


def test_what_happens_after_the_window_changes_nothing(history):
    before = closed(history, 14)
    later = tables.ORDERS.build([order("silent", 14, 99.0), order("buyer", 16, 99.0)])
    assert closed(history.commit(append={"orders": later}), 30)["silent"] == before["silent"]


def with_touches(history: History, *rows: dict) -> History:
    return history.commit(append={"touches": tables.TOUCHES.build(rows)})


def test_a_touch_without_an_id_joins_the_last_decision_on_its_channel(history):
    mine = {"decision_id": None}
    after = with_touches(
        history,
        touch("silent", 2, "clicked") | mine,  # its channel, within the window: joined
        touch("later", 4, "clicked") | mine | {"channel": "sms"},  # another channel
        touch("buyer", 2, "seen") | mine,  # the decision has touches of its own id
        touch("nobody", 2, "seen") | mine,  # nothing was sent
        touch("leaver", 2, "clicked") | mine | {"treatment_id": "other"},
    )
    clicked = {name for name, row in closed(after, 17).items() if row["is_click"]}
    assert clicked == {"buyer", "silent"}
    twice = with_touches(after, touch("later", 6, "clicked") | mine)
    again = twice.commit(
        append={"decisions": tables.DECISIONS.build([decision("later2", at=5) | {"customer_id": "later"}])}
    )
    found = closed(again, 30)
    assert (found["later"]["is_click"], found["later2"]["is_click"]) == (False, True)


def test_a_message_of_somebody_else_does_not_slide_to_an_older_decision(history):
    # The last decision has touches of its own id, so what carries none is not its, nor the one's before.
    decisions = [
        decision("old", at=0) | {"customer_id": "later"},
        decision("new", at=5) | {"customer_id": "later"},
    ]
    after = history.commit(append={"decisions": tables.DECISIONS.build(decisions)})
    own = [touch("later", 5.1, "sent", ours=False) | {"decision_id": "d-new"}]
    found = closed(with_touches(after, *own, touch("later", 6, "clicked") | {"decision_id": None}), 30)
    assert not any(found[name]["is_click"] for name in ("old", "new"))


def test_a_message_that_names_another_treatment_does_not_slide_to_an_older_decision(history):
    ours = {"customer_id": "later"}
    decisions = [decision("old", at=0) | ours, decision("new", "other", at=5) | ours]
    after = history.commit(append={"decisions": tables.DECISIONS.build(decisions)})
    named = touch("later", 6, "clicked", ours=False) | {"treatment_id": "mail"}
    found = closed(with_touches(after, named, touch("later", 4, "seen", ours=False)), 30)
    assert not any(found[name]["is_click"] for name in ("old", "new", "later"))


def test_an_opt_out_counts_for_every_open_decision_whatever_it_names(history):
    after = with_touches(
        history,
        touch("silent", 3, "unsubscribed", ours=False) | {"channel": "sms"},  # another channel
        touch("ghost", 3, "unsubscribed") | {"customer_id": "free"},  # a decision that is not known
        touch("buyer", 20, "unsubscribed"),  # after the window
    )
    after = after.commit(
        append={"decisions": tables.DECISIONS.build([decision("free2", at=1) | {"customer_id": "free"}])}
    )
    found = closed(after, 30)
    assert {name for name, row in found.items() if row["is_unsubscribe"]} == {
        "leaver",
        "silent",
        "free",
        "free2",
    }
    with after.as_of(day(30)) as snapshot:
        reasons = {row["touch_id"]: row["reason"] for row in refused(snapshot, REWARD).to_pylist()}
    assert (
        reasons["ghost3unsubscribed"]
        == "its decision is not known; as an opt-out it counts for every decision in whose window it falls"
    )


def test_a_wrong_twin_does_not_take_the_place_of_the_right_touch(history):
    right = touch("silent", 3, "clicked") | {"touch_id": "b"}
    wrong = right | {"touch_id": "a", "customer_id": "buyer"}
    after = with_touches(history, wrong, right)
    with after.as_of(day(20)) as snapshot:
        found = {row["touch_id"]: row["reason"] for row in refused(snapshot, REWARD).to_pylist()}
    assert found.get("a") == "its decision is another customer's"
    assert "b" not in found
    assert closed(after, 20)["silent"]["is_click"]


def test_touches_that_cannot_be_are_refused_with_a_reason(history):
    after = with_touches(
        history,
        touch("silent", -1, "clicked"),
        touch("silent", 15, "clicked"),
        touch("ghost", 1, "clicked"),
        touch("silent", 3, "clicked") | {"customer_id": "buyer"},
        touch("buyer", 1, "clicked") | {"touch_id": "zz again", "cost": 9.0},
    )
    with after.as_of(day(20)) as snapshot:
        found = {row["touch_id"]: row["reason"] for row in refused(snapshot, REWARD).to_pylist()}
    assert found == {
        "silent-1clicked": "it lies before its decision",
        "silent15clicked": "it lies after the window of its decision",
        "ghost1clicked": "its decision is not known",
        "silent3clicked": "its decision is another customer's",
        "zz again": "it is a duplicate",
        "free15clicked": "it lies after the window of its decision",
    }
    outcome = closed(after, 20)
    assert not outcome["silent"]["is_click"]
    assert outcome["buyer"]["cost"] == pytest.approx(0.3)


def test_rewards_weigh_what_the_settings_say(history):
    reward = Reward(unsubscribe_cost=2.0, margin_share=0.0, response_value=1.0, click_value=0.5)
    with history.as_of(day(14)) as snapshot:
        rows = {row["decision_id"][2:]: row for row in outcomes(snapshot, SHOP, reward).to_pylist()}
    assert rows["buyer"]["reward"] == pytest.approx(1.0 + 0.5 - 0.3)
    assert rows["leaver"]["reward"] == pytest.approx(-2.0)
    assert (rows["buyer"]["margin"], rows["buyer"]["cost"]) == pytest.approx((6.0, 0.3))


def test_what_arrives_late_corrects_an_outcome_from_then_on(history):
    def now(history: History, at: float) -> dict[str, float]:
        with history.as_of(day(at)) as snapshot:
            added = corrections(snapshot, SHOP, REWARD)
            rows = snapshot.sql(settled(), {"at": day(at)}).to_pylist()
        assert added.num_rows == 0  # all that is known is corrected already
        return {row["decision_id"][2:]: row["reward"] for row in rows}

    with history.as_of(day(14)) as snapshot:
        history = history.commit(append={"outcomes": outcomes(snapshot, SHOP, REWARD)})
        assert corrections(snapshot, SHOP, REWARD).num_rows == 0
    late = history.commit(
        append={"orders": tables.ORDERS.build([order("silent", 6, 5.0), order("buyer", 15, 1.0)])}
    )
    with late.as_of(day(20)) as snapshot:
        found = corrections(snapshot, SHOP, REWARD)
    assert [(row["decision_id"], row["reward"]) for row in found.to_pylist()] == [("d-silent", 5.0)]
    late = late.commit(append={"corrections": found})
    assert now(late, 20)["silent"] == 5.0
    with late.as_of(day(19)) as snapshot:  # before it was known nothing had changed
        snapshot.connection.register("corrections", late.table("corrections"))
        before = {
            row["decision_id"]: row["reward"] for row in snapshot.sql(settled(), {"at": day(19)}).to_pylist()
        }
    assert before["d-silent"] == 0.0
    with late.as_of(day(60)) as snapshot:  # long after, outcomes are final
        again = late.commit(append={"orders": tables.ORDERS.build([order("free", 6, 5.0)])})
    with again.as_of(day(60)) as snapshot:
        assert corrections(snapshot, SHOP, REWARD).num_rows == 0
