"""The simulated world: exact values, common random numbers, messy files that hold what happened."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from nba import settings
from nba.errors import DataError, MissingError
from nba.histories import simulated_play as play
from nba.histories import simulated_truth as truths
from nba.histories.simulated import World
from nba.histories.simulated_oracle import allowed
from nba.histories.simulated_settings import default_limits
from nba.histories.simulated_truth import WEEK

N, SEED, BEFORE = 1500, 3, 12


@pytest.fixture(scope="module")
def truth():
    return truths.draw_truth(20_000, 5, n_batches=6, weeks_before=12, start=1_767_592_800_000_000, factor=1.0)


@pytest.fixture(scope="module")
def begun(truth):
    return live(truth, -12, 0, play.newsletter)


@pytest.fixture(scope="module")
def world():
    return World.create(N, SEED, n_batches=6, weeks_before=BEFORE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "shop"
    World.create(N, SEED, n_batches=6, weeks_before=BEFORE).write_workspace(folder)
    return folder


@pytest.fixture
def workspace(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "shop"))


def live(truth, first, last, choose):
    state = play.begin(truth, first)
    while state.week < last:
        sent = choose(truth, play.look(truth, state, state.week))
        state, _ = play.step(truth, state, sent, truth.start + state.week * WEEK)
    return state


def batch(world, number, treatments, people=None):
    """Decisions for everybody, with the treatments repeated in turn."""
    people = range(world.options.n_customers) if people is None else people
    ids = [world._book.crm_id[i].as_py() for i in people]
    at = world.decided_at(number)
    return pa.table(
        {
            "decision_id": [f"{number}-{i:06d}" for i in people],
            "external_id": pa.array(ids, pa.string()),
            "treatment_id": [treatments[i % len(treatments)] for i in people],
            "channel": ["any"] * len(ids),
            "decided_at": pa.array([at] * len(ids), pa.timestamp("us", tz="UTC")),
        }
    )


def mixed(world, number):
    return batch(world, number, truths.CATALOG.treatment_ids)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def raw_orders(folder: Path, pattern: str = "*") -> list[list[str]]:
    out = []
    for path in sorted((folder / "sources" / "orders").glob(f"{pattern}.csv")):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        out += [[cell.strip('"') for cell in line.split(";")] for line in lines]
    return out


# by hand


def test_drift_moves_each_taste_towards_that_for_the_action_before_it(truth):
    before, after = play.tastes(truth, truth.drift_week - 1), play.tastes(truth, truth.drift_week)
    np.testing.assert_array_equal(before, truths.ACTION_TASTE)
    np.testing.assert_allclose(after[0, 1], 0.55 * before[0, 1] + 0.45 * before[0, 0])
    np.testing.assert_allclose(after[0, 0], 0.55 * before[0, 0] + 0.45 * before[0, 3])
    np.testing.assert_array_equal(after[:, 4], before[:, 4])


def test_a_sleeping_dog_loses_the_share_of_its_own_purchases_that_contact_spoils(truth, begun):
    moment = play.look(truth, begun, 0)
    value, extra = play.values(truth, moment)
    column = truths.CATALOG.treatment_ids.index("collection_email")
    dogs = truth.kind == truths.TYPES.index("sleeping_dog")
    rested = dogs & moment.consent[:, 0] & (moment.n28 == 0) & moment.joined & ~moment.gone
    who = np.flatnonzero(rested)[0]
    level = truth.rate[who] * play.season(truth, 0)
    hot = 0.5 * moment.hot[who] + 0.5 * truth.hot[who]
    later_level = truth.rate[who] * play.season(truth, 1)
    later_hot = 0.25 * moment.hot[who] + 0.75 * truth.hot[who]
    alive = 1 - 0.95 * truth.gone_hazard[who]
    own = level * (2.2 * hot + 0.75 * (1 - hot))
    own += later_level * (2.2 * later_hot + 0.75 * (1 - later_hot)) * alive
    lost = 0.5 * own
    np.testing.assert_allclose(extra[who, column], -0.98 * lost)
    money = lost * truth.spend[who] * (1 - truth.returns[who]) + 0.002 * 3.0 * 2.0 + 0.05
    np.testing.assert_allclose(value[who, column], -0.98 * money)


def test_contacts_tire_and_repeats_tire_more(truth):
    state = live(truth, 0, 1, lambda tr, moment: np.where(moment.joined, 4, 0))
    first, second = play.look(truth, play.begin(truth, 0), 0), play.look(truth, state, 1)
    alike = (state.chosen[0] > 0) & ~second.gone & (truth.kind == 0) & (first.hot == second.hot)
    alike &= np.digitize(first.since_order, [3, 9]) == np.digitize(second.since_order, [3, 9])
    same = np.flatnonzero(alike)
    assert len(same) > 100
    season = play.season(truth, 1) / play.season(truth, 0)
    for column, kept in ((4, 0.7), (6, 1.0)):  # the same action again, another action
        again, before = (play.effects(truth, m, same, np.full(len(same), column))[0] for m in (second, first))
        np.testing.assert_allclose(again / before, np.exp(-0.30) * kept * season)


def test_cooldown_and_contact_cap_are_those_of_the_workspace(truth):
    weekly = live(truth, 0, 4, lambda tr, moment: np.where(moment.joined, 4, 0))
    for week in range(1, 5):
        moment = play.look(truth, weekly, week)
        arrived = np.stack(weekly.chosen[:week]) > 0
        may = allowed(moment, weekly, 28, 3)
        full = arrived.sum(axis=0) >= 3
        assert not may[full, 1:].any()
        open_to = ~full & moment.joined & moment.consent[:, 0]
        np.testing.assert_array_equal(may[open_to, 4], ~arrived[-1][open_to])  # 10 days
        assert may[open_to, 1].all()  # another action
        assert may[:, 0].all()


def test_what_is_worth_nothing_and_what_is_unknown(world):
    consent = world._truth.consent & (world._truth.joined_week < 0)[:, None]
    refuses = int(np.flatnonzero(~consent[:, 0] & (world._truth.joined_week < 0))[0])
    takes = int(np.flatnonzero(consent.all(axis=1))[0])
    absent = int(np.flatnonzero(world._truth.joined_week >= 0)[0])
    rows = batch(world, 0, ["collection_email"], [refuses, takes, takes, absent])
    stranger = rows.slice(1, 1).set_column(1, "external_id", pa.array(["C-nobody"]))
    nothing = rows.slice(1, 1).set_column(2, "treatment_id", pa.array(["none"]))
    rows = rows.set_column(0, "decision_id", pa.array(["a", "c", "b", "d"]))
    value = world.true_value(pa.concat_tables([rows, stranger, nothing]))
    assert value[0] == value[1] == value[3] == value[5] == 0  # refused, second of a week, not joined, none
    assert value[2] != 0
    assert np.isnan(value[4])


def test_the_workspace_can_be_read_by_the_platform(workspace):
    read = settings.read(workspace)
    assert settings.read_catalog(workspace, read) == truths.CATALOG
    assert (read.limits.capacity, read.limits.budget) == default_limits(N)
    assert {arm.name: arm.share for arm in read.experiment.arms} == {
        "holdout": 0.1,
        "policy": 0.7,
        "random": 0.1,
        "response": 0.1,
    }
    assert read.reward.unsubscribe_cost == play.UNSUBSCRIBE_COST
    for source in read.sources:
        paths = list(workspace.glob(source.path))
        assert len(paths) == 1, source.name
        text = paths[0].read_bytes()
        names = set(source.identifiers.values()) | set(source.columns.values())
        if source.format == "parquet":
            assert names <= set(pq.read_schema(paths[0]).names)
        else:
            assert names <= {name for name in names if name in text.decode(source.encoding)}


def test_errors_say_what_to_do(workspace, tmp_path):
    world = World.load(workspace / "world")
    with pytest.raises(DataError, match="not empty"):
        World.create(500, 1, weeks_before=2).write_workspace(workspace)
    with pytest.raises(MissingError, match="saved world"):
        World.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no time zone"):
        World.create(500, 1, weeks_before=2, start=datetime(2026, 1, 5, 6))
    unknown = batch(world, 0, ["gift_email"])
    with pytest.raises(DataError, match="gift_email"):
        world.respond(unknown, workspace)
    two = pa.concat_tables([batch(world, 0, ["none"]), batch(world, 1, ["none"])])
    with pytest.raises(DataError, match="one batch"):
        world.respond(two, workspace)
    with pytest.raises(DataError, match="not known yet"):
        world.true_value(batch(world, 3, ["none"]))


# laws


def test_the_same_seed_writes_the_same_files_and_another_does_not(workspace, tmp_path):
    World.create(N, SEED, n_batches=6, weeks_before=BEFORE).write_workspace(tmp_path / "again")
    World.create(N, SEED + 1, n_batches=6, weeks_before=BEFORE).write_workspace(tmp_path / "other")
    first, again, other = (files(tmp_path / name / "sources") for name in ("shop", "again", "other"))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_truth_beyond_the_start_leaves_no_trace_before_it(workspace, tmp_path):
    World.create(N, SEED, n_batches=6, weeks_before=BEFORE, truth_factor=-10.0).write_workspace(
        tmp_path / "odd"
    )
    assert files(workspace / "sources") == files(tmp_path / "odd" / "sources")


def test_a_distorted_truth_turns_gain_into_harm(world):
    state = world._state
    honest = play.values(world._truth, play.look(world._truth, state, 0))[1]
    turned = world.with_truth(-10.0)
    bent = play.values(turned._truth, play.look(turned._truth, state, 0))[1]
    persuadable = np.isin(world._truth.kind, [0, 1, 5])
    assert (bent[persuadable][honest[persuadable] > 0] < 0).all()
    assert bent.sum() < 0 < honest.sum()


def test_a_second_answer_changes_nothing_and_other_decisions_are_refused(workspace):
    world = World.load(workspace / "world")
    decisions = mixed(world, 0)
    assert not world.has_played(decisions)
    world.respond(decisions, workspace)
    before = files(workspace / "sources")
    world.respond(decisions, workspace)
    assert world.has_played(decisions)
    assert files(workspace / "sources") == before
    with pytest.raises(DataError, match="other decisions"):
        world.respond(batch(world, 0, ["none"]), workspace)


def test_a_killed_answer_is_made_good_by_answering_again(workspace):
    # Files written, state not saved: the world that is loaded writes the very same files.
    decisions = mixed(World.load(workspace / "world"), 0)
    World.load(workspace / "world").respond(decisions, workspace)
    before = files(workspace / "sources")
    World.load(workspace / "world").respond(decisions, workspace)
    assert files(workspace / "sources") == before


def test_saving_between_the_weeks_makes_no_difference(workspace, tmp_path):
    whole = World.load(workspace / "world")
    for number in range(3):
        whole.respond(mixed(whole, number), workspace)
        parted = World.load(workspace / "world")
        parted.respond(mixed(parted, number), tmp_path / "parted")
        parted.save(workspace / "world")
    weeks = {k: v for k, v in files(workspace / "sources").items() if "history" not in k}
    assert weeks == files(tmp_path / "parted" / "sources")
    assert len(list((workspace / "world").glob("week-*"))) == 1
    again = World.load(workspace / "world")
    for number in range(4):
        decisions = mixed(whole, number)
        np.testing.assert_array_equal(whole.true_value(decisions), again.true_value(decisions))


def test_a_week_left_out_passes_without_contact(workspace, tmp_path):
    first, second = World.load(workspace / "world"), World.load(workspace / "world")
    first.respond(batch(first, 0, ["none"]), tmp_path / "a")
    first.respond(mixed(first, 1), tmp_path / "a")
    second.respond(mixed(second, 1), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    second.rest(tmp_path / "b")
    assert second.next_batch == 3


def test_the_value_of_a_decision_does_not_change_once_it_has_been_played(workspace):
    world = World.load(workspace / "world")
    decisions = mixed(world, 0)
    before = world.true_value(decisions)
    world.respond(decisions, workspace)
    world.respond(mixed(world, 1), workspace)
    np.testing.assert_array_equal(world.true_value(decisions), before)


def test_a_decision_for_one_changes_nothing_for_another(truth, begun):
    rng = np.random.default_rng(0)
    sent = rng.integers(0, truths.N_COLUMNS, truth.n)
    other = sent.copy()
    odd = np.arange(truth.n) % 2 == 1
    other[odd] = 0
    results = []
    for choice in (sent, other):
        state, played = play.step(truth, begun, choice, truth.start)
        state, later = play.step(truth, state, np.zeros(truth.n, dtype=np.int64), truth.start + WEEK)
        orders = [play._join(played.orders, later.orders)]
        own = ~odd[orders[0].person]
        results.append([x[own] for x in vars(orders[0]).values()] + [state.opted_out[~odd]])
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_nobody_is_reached_without_consent_nor_after_opting_out(workspace):
    world = World.load(workspace / "world")
    for number in range(4):
        world.respond(mixed(world, number), workspace)
    touches = pa.concat_tables(
        [
            pq.ParquetFile(p).read()
            for p in sorted((workspace / "sources" / "touchpoints").glob("*2026*.parquet"))
        ]
    )
    ours = touches.filter(pc.is_valid(touches["decision_id"]))
    rows = ours.to_pandas()
    delivered = rows[rows.status == "delivered"]
    who = np.array(
        [
            world.true_person("crm_id", crm_id)
            if isinstance(crm_id, str)
            else world.true_person("device", device)
            for crm_id, device in zip(delivered.crm_id, delivered.device)
        ]
    )
    channel = [truths.CHANNELS.index(c) for c in delivered.channel]
    assert world._truth.consent[who, channel].all()
    assert set(rows[rows.status == "rejected"].decision_id).isdisjoint(delivered.decision_id)
    assert (rows.status == "rejected").any()
    assert (delivered.cost == [truths.COST[c] for c in delivered.channel]).all()
    left = rows[rows.status == "optout"].merge(delivered, on=["crm_id", "channel"], suffixes=("", "_then"))
    assert len(left)
    assert (left.at_then <= left["at"]).all()


def test_files_hold_every_order_once_and_none_before_its_week(workspace):
    world = World.load(workspace / "world")
    pre = World.create(N, SEED, n_batches=6, weeks_before=BEFORE)._rows["orders"].num_rows
    written = len({row[0] for row in raw_orders(workspace) if row[0]})
    assert written < pre  # some are due later
    for number in range(3):
        world.respond(batch(world, number, ["none"]), workspace)
    for number in range(3):
        label = f"orders_{world.decided_at(number):%Y%m%d}"
        end = world.decided_at(number + 1) + timedelta(hours=1)  # Madrid is an hour ahead in winter
        for row in raw_orders(workspace, label):
            if row[4] != "0000-00-00":
                at = datetime.fromisoformat(row[4]).replace(tzinfo=UTC)
                assert end - timedelta(weeks=2) <= at < end
    ids = [row[0] for row in raw_orders(workspace) if row[0]]
    assert 0.001 < 1 - len(set(ids)) / len(ids) < 0.015


def test_identifiers_belong_to_one_person_each(world):
    people = world._book.people()
    assert len(people["crm_id"]) == 2 * N
    assert len(people["cookie"]) == 3 * N
    assert len(people["phone"]) == N
    assert N < len(people["email"]) <= 2 * N
    assert world.true_person("phone", "000000000") is None
    assert world.true_person("crm_id", world._book.crm_id[7].as_py()) == 7
    assert world.true_person("email", world._book.email[7].as_py()) == 7


def test_the_crm_holds_the_people_who_joined_and_their_mess(workspace, world):
    lines = (workspace / "sources/crm/crm_history.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [[cell.strip('"') for cell in line.split(",")] for line in lines]
    people = [world.true_person("crm_id", row[0]) for row in rows]
    assert set(people) == set(np.flatnonzero(world._truth.joined_week < 0))
    assert len(people) > len(set(people))
    emails = [row[1] for row in rows]
    assert any(e != e.lower() for e in emails)
    assert any(e.startswith("noreply@") for e in emails)
    for row, person in zip(rows, people):
        address = row[1].strip().lower()
        assert world.true_person("email", address) in (person, None)
        assert (
            person == world.true_person("phone", "".join(c for c in row[2] if c.isdigit())[-9:]) or not row[2]
        )


def test_web_times_are_the_moments_however_they_are_written(workspace):
    lines = (workspace / "sources/web/web_history.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kinds = {type(row["ts"]) for row in rows}
    assert kinds == {int, str}
    start = datetime(2026, 1, 5, 6, tzinfo=UTC)
    for row in rows:
        ts = row["ts"]
        at = datetime.fromtimestamp(ts / 1000, UTC) if isinstance(ts, int) else datetime.fromisoformat(ts)
        assert start - timedelta(weeks=BEFORE, hours=1) <= at < start + timedelta(hours=2)


def test_the_oracle_of_a_batch_is_the_first_that_it_plays(world):
    capacity, budget = default_limits(N)
    table = world.oracle(0, capacity=capacity, budget=budget)
    assert table.num_rows == (world._truth.joined_week < 0).sum()
    decisions = table.append_column("decision_id", table["external_id"])
    decisions = decisions.append_column(
        "decided_at", pa.array([world.decided_at(0)] * table.num_rows, pa.timestamp("us", tz="UTC"))
    )
    np.testing.assert_allclose(world.true_value(decisions), table["true_value"].to_numpy())
    played = world.play_oracle(capacity, budget)
    np.testing.assert_allclose(played.by_batch[0] * N, pc.sum(table["true_value"]).as_py())
    free = world.oracle(0)
    assert pc.sum(free["true_value"]).as_py() > pc.sum(table["true_value"]).as_py()


# recovery


@pytest.mark.parametrize("factor", [1.0, -10.0])
def test_true_values_add_up_to_what_twin_worlds_earn(factor):
    """Two worlds with the same random numbers, one contacted at random for five weeks, one never."""
    truth = truths.draw_truth(
        20_000, 8, n_batches=4, weeks_before=6, start=1_767_592_800_000_000, factor=factor
    )
    start = live(truth, -6, 0, play.newsletter)
    rng = np.random.default_rng(1)
    expected = np.zeros(truth.n)
    earned = []
    for contacted in (True, False):
        state, net = start, np.zeros(truth.n)
        for week in range(7):  # effects of a contact end with the week after it
            sent = np.zeros(truth.n, dtype=np.int64)
            if contacted and week < 5:
                sent = rng.integers(0, truths.N_COLUMNS, truth.n)
                value = play.values(truth, play.look(truth, state, week))[0]
                expected += value[np.arange(truth.n), sent]
            state, played = play.step(truth, state, sent, truth.start + week * WEEK)
            net += np.bincount(played.orders.person, played.orders.net, truth.n) - played.cost
            net -= play.UNSUBSCRIBE_COST * played.opted_out
        earned.append(net)
    difference = earned[0] - earned[1]
    error = difference - expected
    assert abs(error.mean()) < 3 * error.std() / np.sqrt(truth.n)
    persuadable = truth.kind == 0
    assert abs(expected[persuadable].mean()) > 10 * error[persuadable].std() / np.sqrt(persuadable.sum())
    for kind in range(len(truths.TYPES)):
        part = error[truth.kind == kind]
        assert abs(part.mean()) < 4 * part.std() / np.sqrt(len(part))


def test_own_purchases_come_at_their_rate(truth, begun):
    moment = play.look(truth, begun, 0)
    now, later = play.own_rates(truth, moment)
    state, first = play.step(truth, begun, np.zeros(truth.n, dtype=np.int64), truth.start)
    _, second = play.step(truth, state, np.zeros(truth.n, dtype=np.int64), truth.start + WEEK)
    here = moment.joined
    for played, rate in ((first, now * (1 - moment.spoil)), (second, later)):
        bought = np.bincount(played.orders.person, minlength=truth.n)[here]
        error = bought - rate[here]
        assert abs(error.mean()) < 3 * error.std() / np.sqrt(here.sum())
    assert 0.02 < now[here].mean() < 0.045


def test_half_of_the_caused_purchases_come_late_and_a_few_beyond_two_weeks(truth, begun):
    _, played = play.step(truth, begun, np.full(truth.n, 4), truth.start)
    days = played.delay[played.delay > 0] / (24 * 3600e6)
    assert len(days) > 300
    expected = np.exp(-((14 / 4.5) ** 0.9))
    se = np.sqrt(expected * (1 - expected) / len(days))
    assert abs((days > 14).mean() - expected) < 3 * se + 0.005
