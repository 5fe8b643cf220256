"""Assignment: hash, shares, phases, layers, the global holdout."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as checks
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from nba import draws, tables
from nba.errors import DataError
from nba.experiments import design, facts, readout
from nba.history import History
from nba.settings import Arm, Experiment, Measured, Phase, Settings, Trial, Workspace

START = datetime(2026, 1, 1, tzinfo=UTC)
IDS = [f"c{i}" for i in range(20_000)]
PRIMARY = (Measured(name="margin", numerator="margin", role="primary"),)


def trial(experiment_id="cc", prefix="", **more):
    arms = (
        Arm(name=f"{prefix}champion", share=0.5, policy="champion"),
        Arm(name=f"{prefix}challenger", share=0.5, policy="challenger"),
    )
    start = more.pop("starts_at", START)
    return Trial(
        experiment_id=experiment_id, control=arms[0].name, arms=arms, starts_at=start, metrics=PRIMARY, **more
    )


def workspace(*trials):
    return Settings(workspace=Workspace(name="x"), experiments=trials)


# by hand


def test_vectors_of_the_hash():
    # These must hold in any engine; docs/experiments-formulas.md gives them too.
    thirds = tuple(Arm(name=n, share=s, policy="random") for n, s in (("a", 0.2), ("b", 0.3), ("c", 0.5)))
    found = design.assign(Experiment(arms=thirds, control="a"), [f"customer-{i}" for i in range(16)])
    assert "".join(found.arm) == "babcaccbcbabaaaa"
    assert dict(zip(found.arm.tolist(), found.p_arm.tolist())) == {"a": 0.2, "b": 0.3, "c": 0.5}
    drawn = draws.uniform(["customer-0", "customer-1"], "arm|policy")
    assert drawn == pytest.approx([0.2791953571091148, 0.18029842705157917], abs=1e-12)


def test_the_holdout_comes_before_every_trial():
    config = workspace(trial())
    placed = design.place(config, IDS, START)
    held = placed.standing.arm == "holdout"
    assert (placed.arm[held] == "holdout").all()
    assert (placed.experiment_id[held] == "policy").all()
    assert set(placed.arm[~held]) == {"champion", "challenger"}


def test_before_the_start_and_after_the_end_the_standing_experiment_decides():
    config = workspace(trial(ends_at=START + timedelta(days=10)))
    for at in (START - timedelta(days=1), START + timedelta(days=10)):
        assert set(design.place(config, IDS[:500], at).experiment_id) == {"policy"}


def test_an_audience_takes_part_and_nobody_else():
    config = workspace(trial(audience={"a_country": ("ES",)}))
    country = ["ES" if i % 2 else "FR" for i in range(len(IDS))]
    placed = design.place(config, IDS, START, {"a_country": country})
    assert set(np.array(country)[placed.experiment_id == "cc"]) == {"ES"}
    with pytest.raises(DataError, match="audience of 'cc' asks for 'a_country'"):
        design.place(config, IDS, START)


def test_assignments_are_made_once():
    config = workspace(trial())
    first = design.assignments(config, IDS[:100], START, {})
    tables.ASSIGNMENTS.check(first)
    known = {}
    for row in first.to_pylist():
        known.setdefault(row["experiment_id"], []).append(row["customer_id"])
    assert design.assignments(config, IDS[:100], START + timedelta(days=7), known).num_rows == 0
    assert design.assignments(config, IDS[:101], START + timedelta(days=7), known).num_rows >= 1


def test_a_customer_is_drawn_by_its_unit_in_every_experiment():
    config, units = workspace(trial()), {f"c{i}": f"v{i}" for i in range(0, 200, 2)}
    units |= {"somebody else": "c1"}
    drawn = [units.get(c, c) for c in IDS[:200]]
    for ids in (IDS[:200], pa.array(IDS[:200])):
        found = design.place(config, ids, START, units=units)
        wanted = design.place(config, drawn, START)
        assert (found.arm == wanted.arm).all()
        assert (found.experiment_id == wanted.experiment_id).all()
    rows = design.assignments(config, IDS[:200], START, {}, units=units)
    wanted = design.assignments(config, drawn, START, {})
    assert rows.drop_columns("customer_id").equals(wanted.drop_columns("customer_id"))
    assert [units.get(c, c) for c in rows["customer_id"].to_pylist()] == wanted["customer_id"].to_pylist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": (Arm(name="a", share=0.9, policy="champion"),)}, "sum to 0.9"),
        ({"metrics": (Measured(name="margin", numerator="margin"),)}, "primary metrics are"),
        ({"ends_at": START - timedelta(days=1)}, "is not after starts_at"),
        ({"control": "nobody"}, "control is 'nobody'"),
        ({"phases": (Phase(starts_at=START + timedelta(days=1), shares={"a": 1.0}),)}, "phase 1 has shares"),
        ({"slots": (0.5, 0.5)}, "slots are"),
        ({"layer": "site"}, "must be 'outside'"),
    ],
)  # fmt: skip
def test_a_faulty_declaration_is_refused(change, words):
    arms = (Arm(name="a", share=0.5, policy="champion"), Arm(name="b", share=0.5, policy="random"))
    right = {"experiment_id": "t", "control": "a", "arms": arms, "metrics": PRIMARY, "starts_at": START}
    Trial(**right)
    with pytest.raises(ValidationError, match=words):
        Trial(**right | change)


def test_a_measure_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="counts \\['wishes'\\]; known are"):
        Measured(name="wishes", numerator="wishes")


def test_a_guardrail_without_a_margin_is_refused():
    with pytest.raises(ValidationError, match="'returns' has margin 0; expected the loss"):
        Measured(name="returns", numerator="returns", role="guardrail")


def test_two_trials_may_not_share_slots_at_one_time():
    apart = trial("b", "b_", slots=(0.5, 1.0))
    workspace(trial(slots=(0.0, 0.5)), apart)
    workspace(trial(ends_at=START + timedelta(days=5)), trial("b", "b_", starts_at=START + timedelta(days=5)))
    with pytest.raises(ValidationError, match="share slots of layer 'policy'"):
        workspace(trial(slots=(0.0, 0.6)), apart)


# laws


@checks(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=2, max_size=4))
def test_a_growing_share_moves_nobody(weights):
    if any(sum(w) == 0 for w in weights):
        return
    shares = [np.array(w) / sum(w) for w in weights]
    names = ("a", "b", "c")
    arms = tuple(Arm(name=n, share=float(s), policy="random") for n, s in zip(names, shares[0]))
    phases = tuple(
        Phase(starts_at=START + timedelta(days=i), shares=dict(zip(names, map(float, s))))
        for i, s in enumerate(shares[1:], 1)
    )
    experiment = Experiment(arms=arms, control="a", phases=phases)
    ids = IDS[:2000]
    every = [design.assign(experiment, ids, START + timedelta(days=i)).arm for i in range(len(shares))]
    for i, (before, after) in enumerate(pairwise(every)):
        for j, name in enumerate(names):
            if shares[i + 1][j] >= shares[i][j] - 1e-12:
                assert (after[before == name] == name).all()
    for arm, share in zip(every, shares):
        found = [(arm == name).mean() for name in names]
        assert found == pytest.approx(share, abs=0.05)
    moved = design.is_moved(experiment, ids, START + timedelta(days=len(shares)))
    assert (moved == (np.array(every) != every[0]).any(axis=0)).all()


def test_order_and_company_change_nobodys_arm():
    alone = [design.assign(Experiment(), [c]).arm[0] for c in IDS[:50]]
    assert design.assign(Experiment(), IDS[:50][::-1]).arm[::-1].tolist() == alone


# recovery


def test_shares_are_kept_and_experiments_are_independent():
    ids = [f"id{i}" for i in range(200_000)]
    experiment = Experiment(
        control="a",
        arms=tuple(Arm(name=n, share=s, policy="random") for n, s in (("a", 0.2), ("b", 0.3), ("c", 0.5))),
    )
    one = design.assign(experiment, ids).arm
    other = design.assign(experiment.model_copy(update={"salt": "other"}), ids).arm
    for name, share in (("a", 0.2), ("b", 0.3), ("c", 0.5)):
        assert abs((one == name).mean() - share) < 3 * np.sqrt(share * (1 - share) / len(ids))
    counts = [[((one == x) & (other == y)).sum() for y in "abc"] for x in "abc"]
    assert stats.chi2_contingency(counts).pvalue > 0.001


def test_new_customers_are_held_out_at_the_same_rate():
    config = workspace(trial())
    new = [f"new{i}" for i in range(20_000)]
    rates = [(design.place(config, ids, START).arm == "holdout").mean() for ids in (IDS, new)]
    assert rates == pytest.approx([0.1, 0.1], abs=0.007)


def test_a_trial_of_standing_arms_knows_the_phases_of_their_shares(tmp_path):
    shares = {"holdout": 0.2, "a": 0.2, "b": 0.6}
    later = {"holdout": 0.2, "a": 0.4, "b": 0.4}
    standing = Experiment(
        arms=[
            {"name": n, "share": s, "policy": {"holdout": "none"}.get(n, "champion")}
            for n, s in shares.items()
        ],
        phases=[{"starts_at": START + timedelta(days=7), "shares": later}],
        starts_at=START,
    )
    arms = [Arm(name=n, share=s, policy="champion") for n, s in (("a", 0.25), ("b", 0.75))]
    trial = Trial(experiment_id="ab", layer="standing", control="a", starts_at=START, arms=arms)
    ids = np.array([f"c{i}" for i in range(4000)])
    parts = []
    for week, some in enumerate((ids[:2000], ids[2000:])):
        at = START + timedelta(days=8 * week)
        found = design.assign(standing, some.tolist(), at)
        parts.append(
            pa.table(
                {
                    "experiment_id": ["policy"] * 2000, "customer_id": some, "arm": found.arm,
                    "assigned_at": pa.array([at] * 2000, tables.TIME), "p_arm": found.p_arm,
                }
            )
        )  # fmt: skip
    rows = tables.ASSIGNMENTS.conform(pa.concat_tables(parts))
    with (
        History.read(tmp_path)
        .commit(append={"assignments": rows})
        .as_of(START + timedelta(days=60)) as snapshot
    ):
        one = facts.following(trial, standing)
        people = facts.assigned(snapshot, one, standing)
        assert readout.mismatch(snapshot, one, people)[1] == ""
        kept = people.filter(pc.invert(people["is_moved"]))
        shown = (
            kept["phase"].to_pylist(),
            kept["arm"].to_pylist(),
            kept["p_arm"].to_numpy().round(9).tolist(),
        )
        assert set(zip(*shown)) == {(0, "a", 0.25), (0, "b", 0.75), (1, "a", 0.5), (1, "b", 0.5)}
        gone = standing.model_copy(
            update={"phases": (Phase(starts_at=START, shares={"holdout": 1.0, "a": 0.0, "b": 0.0}),)}
        )
        with pytest.raises(DataError, match="no customers"):
            facts.following(trial, gone)
