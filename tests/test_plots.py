"""Figures show what the tables say, in the colours promised, and fail clearly."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nba import plots, tables
from nba.errors import DataError
from nba.plots import insight, policies, readings, style

START = datetime(2026, 3, 2, tzinfo=UTC)


def times(*weeks: int) -> pa.Array:
    return pa.array([START + timedelta(weeks=w) for w in weeks], tables.TIME)


CALIBRATION = pa.table({"bin": [1, 2], "n": [90, 10], "predicted": [0.1, 0.4], "observed": [0.12, 0.35]})
QINI = pa.table({"share": [0.0, 0.5, 1.0], "qini": [0.0, 8.0, 10.0], "random": [0.0, 5.0, 10.0]})
IMPORTANCE = pa.table({"feature": ["f_a_b", "f_c"], "importance": [1.0, 3.0]})
DECILES = pa.table(
    {
        "decile": [1, 2],
        "n": [50, 50],
        "predicted": [0.2, 0.1],
        "observed": [0.25, 0.05],
        "lower": [0.2, -0.02],
        "upper": [0.3, 0.12],
    }
)
MIX = pa.table(
    {
        "decided_at": times(0, 0, 1, 1),
        "n": [10, 4, 7, 90],
        "channel": ["email", "sms", "email", "none"],
        "action_id": ["x", "y", "x", "none"],
    }
)
VALUE = pa.table(
    {
        "decided_at": times(0, 1, 2),
        "arm": ["policy"] * 3,
        "effect": [1.0, 2.0, 3.0],
        "lower": [0.5, 1.5, 2.5],
        "upper": [1.5, 2.5, 3.5],
        "n": [9, 9, 9],
        "is_matured": [True, True, False],
    }
)
CLV = pa.table({"lower": [0.0, 10.0], "upper": [10.0, 90.0], "n": [5, 1], "total": [20.0, 80.0]})
CREDITS = pa.table(
    {"method": ["last", "last", "last"], "channel": ["email", "sms", "email"], "credit": [1.0, 2.0, 3.0]}
)
CLV_SCORES = pa.table(
    {"origin_at": times(0, 0, 4), "part": ["orders", "value", "orders"], "ratio": [0.9, 1.1, 1.0],
     "ngini": [0.6, 0.7, 0.65], "decile_mape": [0.2, 0.3, None]}
)  # fmt: skip
CLV_DECILES = pa.table(
    {"origin_at": times(0, 0), "part": ["orders", "orders"], "decile": [1, 2], "forecast": [0.1, 0.9],
     "observed": [0.2, 1.1], "n": [10, 10]}
)  # fmt: skip
CLV_GRID = pa.table(
    {"repeats": ["0", "10+"], "quiet": ["0-29", "365+"], "repeats_from": [0, 10], "quiet_from": [0, 365],
     "n": [7, 3], "p_alive": [0.9, 0.1]}
)  # fmt: skip


def sample(name: str, **known: object) -> pa.Table:
    """Invented rows of a table of the contract, with the values given."""
    contract = tables.BY_NAME[name]
    rows = contract.sample(3, np.random.default_rng(4)).to_pylist()
    return contract.build([row | known for row in rows])


DRAWN: dict[str, tuple[Callable[..., go.Figure], pa.Table]] = {
    "calibration": (plots.calibration, CALIBRATION),
    "clv_origins": (plots.clv_origins, CLV_SCORES),
    "clv_deciles": (plots.clv_deciles, CLV_DECILES),
    "clv_grid": (plots.clv_grid, CLV_GRID),
    "qini": (plots.qini, QINI),
    "importance": (plots.importance, IMPORTANCE),
    "uplift_deciles": (plots.uplift_deciles, DECILES),
    "effects": (plots.effects, tables.EFFECTS.sample(3, np.random.default_rng(1))),
    "mix": (plots.mix, MIX),
    "value_over_batches": (plots.value_over_batches, VALUE),
    "credits": (plots.credits, CREDITS),
    "clv": (plots.clv, CLV),
    "prices": (plots.prices, tables.BATCHES.sample(6, np.random.default_rng(2))),
    "policy_values": (plots.policy_values, tables.POLICY_VALUES.sample(4, np.random.default_rng(3))),
    "candidates": (policies.candidates, sample("choices", is_eligible=True, mean=1.0)),
    "nothing": (policies.nothing, sample("value_finder")),
    "removed": (policies.removed, sample("summary_removed")),
    "ranking": (policies.ranking, sample("summary_arbitration", value=2.0, priority=1.0)),
    "dependence": (partial(insight.dependence, feature="visits"), sample("summary_dependence")),
    "drift": (partial(insight.drift, limit=0.25), sample("summary_drift", psi=0.3)),
    "versions": (insight.versions, sample("summary_models", qini=0.1, qini_lower=0.0, qini_upper=0.2)),
    "freshness": (insight.freshness, sample("summary_tables", days_behind=3.0)),
}


def effects(**changed: object) -> pa.Table:
    row = {
        "experiment_id": "e",
        "metric": "margin",
        "arm": "policy",
        "segment": "all",
        "control": "holdout",
        "n": 900,
        "n_control": 100,
        "mean": 3.0,
        "mean_control": 1.0,
        "effect": 2.0,
        "lower": 1.0,
        "upper": 4.0,
        "p_value": 0.01,
        "level": 0.95,
        "method": "m",
        "estimand": "e",
        "reason": "",
    }
    return tables.EFFECTS.build([row | changed])


# by hand


def test_a_chance_is_coloured_from_never_to_sure() -> None:
    alike = CLV_GRID.set_column(5, "p_alive", [[1.0, 1.0]])
    drawn = plots.clv_grid(alike).data[0]
    assert (drawn.zmin, drawn.zmax) == (0.0, 1.0)
    assert plots.clv_grid(CLV_GRID, "n").data[0].zmin is None


def test_effects_show_the_interval_and_its_side_of_zero() -> None:
    (point,) = plots.effects(effects(), "EUR").data
    assert (point.x[0], point.y[0]) == (2.0, "policy")
    assert (point.error_x.array[0], point.error_x.arrayminus[0]) == (2.0, 1.0)
    assert point.marker.color == point.error_x.color == plots.style.ARMS[0]
    assert point.marker.symbol == "circle"
    assert plots.effects(effects(lower=-1.0)).data[0].marker.symbol == "circle-open"
    assert plots.effects(effects(effect=-2.0, lower=-3.0, upper=-1.0)).data[0].marker.symbol == "circle"
    assert "EUR" in plots.effects(effects(), "EUR").layout.xaxis.title.text


def test_the_smallest_visible_effect_of_a_mean_per_customer_is_drawn_per_day() -> None:
    found = pa.table({"days": [7.0, 28.0], "mde": [0.7, 1.4], "mde_adjusted": [0.35, 0.7]})
    each, ratio = (readings.detectable(found, "EUR", per_customer=is_mean) for is_mean in (True, False))
    assert each.layout.yaxis.title.text == "Smallest visible effect per customer and day (EUR)"
    assert [list(line.y) for line in each.data] == [pytest.approx([0.05, 0.025]), pytest.approx([0.1, 0.05])]
    assert ratio.layout.yaxis.title.text == "Smallest visible effect (EUR)"
    assert [list(line.y) for line in ratio.data] == [[0.35, 0.7], [0.7, 1.4]]


def test_only_a_mean_per_customer_is_called_so() -> None:
    title = plots.effects(effects(), "EUR").layout.xaxis.title.text
    ratio = plots.effects(effects(), "EUR", per_customer=False).layout.xaxis.title.text
    assert (title, ratio) == (
        "Effect per customer against the control (EUR)",
        "Effect against the control (EUR)",
    )
    looks = pa.table({"arm": ["a"], "looked_at": [START], "effect": [1.0], "lower": [0.0], "upper": [2.0]})
    assert readings.sequence(looks, "EUR").layout.yaxis.title.text == "Effect per customer so far (EUR)"
    assert (
        readings.sequence(looks, "EUR", per_customer=False).layout.yaxis.title.text == "Effect so far (EUR)"
    )


def test_an_arm_has_one_colour_in_every_figure_and_none_of_a_channel() -> None:
    order = ["random", "policy"]
    (point,) = plots.effects(effects(), "EUR", order=order).data
    (trace,) = plots.value_over_batches(VALUE, "EUR", order).data
    assert point.marker.color == trace.line.color == plots.style.ARMS[1]
    assert not {*plots.style.ARMS} & {*plots.style.CHANNEL.values()}


def test_effects_of_one_metric_and_of_segments() -> None:
    both = pa.concat_tables([effects(), effects(metric="orders", effect=0.1, lower=0.0, upper=0.2)])
    assert [trace.x[0] for trace in plots.effects(both, metric="orders").data] == [0.1]
    parts = pa.concat_tables([effects(), effects(segment="new")])
    assert {trace.y[0] for trace in plots.effects(parts).data} == {"all", "new"}
    two = pa.concat_tables([parts, effects(arm="other", segment="new")])
    assert {trace.y[0] for trace in plots.effects(two).data} == {
        *("policy · all", "policy · new"),
        "other · new",
    }


def test_edges_of_bands_are_lines_that_do_not_meet_and_few_days_are_labelled() -> None:
    days = [START + timedelta(days=7 * i) for i in range(12)]
    rows = [
        {"arm": arm, "looked_at": at, "effect": 1.0, "lower": 0.0, "upper": 2.0}
        for arm in ("a", "b")
        for at in days
    ]
    drawn = readings.sequence(pa.Table.from_pylist(rows), "EUR", ["a", "b"])
    filled, _, edges, _ = drawn.data
    assert (filled.fill, edges.fill) == ("toself", "none")
    assert np.isnan(np.asarray(edges.y, dtype=float)).tolist() == [i == 12 for i in range(25)]
    assert list(drawn.layout.xaxis.tickvals) == [np.datetime64(at.replace(tzinfo=None)) for at in days[::2]]


def test_unknown_effects_are_left_out_not_drawn_as_zero() -> None:
    unknown = effects(effect=None, lower=None, upper=None, reason="too few")
    assert not plots.effects(unknown).data
    assert len(plots.effects(pa.concat_tables([effects(), unknown.set_column(2, "arm", [["b"]])])).data) == 1


def test_mix_counts_contacts_and_leaves_out_no_contact() -> None:
    figure = plots.mix(MIX)
    assert {trace.name: list(trace.y) for trace in figure.data} == {"email": [10, 7], "sms": [4, 0]}
    assert figure.layout.barmode == "stack"
    assert {trace.name for trace in plots.mix(MIX, by="action_id").data} == {"x", "y"}


def test_value_leaves_out_open_batches() -> None:
    (trace,) = plots.value_over_batches(VALUE, "EUR").data
    assert list(trace.y) == [1.0, 2.0]
    assert list(trace.error_y.array) == [0.5, 0.5]


def test_credits_add_up_within_method_and_channel() -> None:
    assert {trace.name: list(trace.y) for trace in plots.credits(CREDITS).data} == {
        "email": [4.0],
        "sms": [2.0],
    }


def test_policy_values_stay_where_they_are_beside_each_other() -> None:
    row = {
        "policy_id": "p",
        "batch_id": "all",
        "value": 2.0,
        "se": 0.1,
        "lower": 1.5,
        "upper": 2.5,
        "ess": 9.0,
        "n": 10,
        "max_weight": 1.0,
        "reason": "",
    }
    table = tables.POLICY_VALUES.build([row | {"estimator": "ips"}, row | {"estimator": "dr"}])
    figure = plots.policy_values(table)
    assert [trace.x[0] for trace in figure.data] == [2.0, 2.0]
    assert [trace.y[0] for trace in figure.data] == ["p<br>ips", "p<br>dr"]
    assert figure.layout.scattermode is None  # grouping would shift the values themselves


def test_importance_puts_the_largest_on_top_and_says_names_plainly() -> None:
    (bars,) = plots.importance(IMPORTANCE).data
    assert list(bars.y) == ["a b", "c"]
    assert list(plots.importance(IMPORTANCE, top=1).data[0].y) == ["c"]


def test_clv_tells_the_share_of_all_value() -> None:
    (bars,) = plots.clv(CLV, "EUR").data
    assert list(bars.y) == [5, 1]
    assert bars.customdata[1][1] == pytest.approx(0.8)


def test_names_from_data_are_text_not_markup() -> None:
    figure = plots.effects(effects(arm="<a href='x'>here</a>"))
    assert "<a" not in figure.to_json()


# laws


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_drawn_and_can_be_sent(name: str) -> None:
    draw, table = DRAWN[name]
    figure = draw(table)
    assert figure.data
    assert figure.to_json()
    assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_of_no_rows_says_so(name: str) -> None:
    draw, table = DRAWN[name]
    figure = draw(table.slice(0, 0))
    assert figure.layout.annotations[0].text == "Nothing to show yet"


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_of_another_table_names_what_is_missing(name: str) -> None:
    draw, _ = DRAWN[name]
    with pytest.raises(DataError, match="lacks"):
        draw(pa.table({"other": [1]}))


@given(st.lists(st.sampled_from(["email", "sms", "push", "call", "a", "b", "c", "d", "none"]), max_size=9))
def test_colours_are_stable_for_channels_and_differ_within_a_figure(names: list[str]) -> None:
    found = plots.style.colours(names)
    assert set(found) == set(names)
    assert len(set(found.values())) == len(found)
    assert all(found[name] == plots.style.CHANNEL[name] for name in found if name in plots.style.CHANNEL)
    assert plots.style.colours(names[::-1]) == found


def test_few_arms_get_the_colours_told_apart_best() -> None:
    assert set(plots.style.colours(["policy", "random", "response"]).values()) <= {
        plots.style.BLUE,
        plots.style.ORANGE,
        plots.style.GREEN,
        plots.style.PINK,
        plots.style.SKY,
        plots.style.RED,
    }


# What eyes without one kind of cone see of linear red, green and blue: Machado, Oliveira & Fernandes (2009),
# severity 1.
EYES = {
    "usual": np.eye(3),
    "without red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "without green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "without blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def linear(colour: str) -> np.ndarray:
    """Linear red, green and blue of a colour, 0-1."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def light(colour: str) -> float:
    """Relative luminance of a colour, 0-1 (WCAG)."""
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def apart(one: str, other: str, eyes: str) -> float:
    """Distance of two colours in CIE Lab (D65), as some eyes see them."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    lab = []
    for colour in (one, other):
        seen = to_xyz @ np.clip(EYES[eyes] @ linear(colour), 0, 1) / (0.95047, 1.0, 1.08883)
        x, y, z = np.where(seen > 0.008856, np.cbrt(seen), 7.787 * seen + 16 / 116)
        lab.append(np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)]))
    return float(np.linalg.norm(lab[0] - lab[1]))


def test_arms_are_told_apart_by_all_eyes_and_from_channels() -> None:
    style = plots.style
    # By hand: black and white are 100 apart for everybody, as their lightness is.
    assert all(apart("#000000", "#FFFFFF", eyes) == pytest.approx(100, abs=0.1) for eyes in EYES)
    for one, other in itertools.combinations(style.ARMS, 2):
        assert min(apart(one, other, eyes) for eyes in EYES) > 22, (one, other)
    for arm in style.ARMS:
        for name, colour in style.CHANNEL.items():
            assert apart(arm, colour, "usual") > 30, (arm, name)


def test_template_text_and_arms_read_on_white_and_on_black() -> None:
    text = light(plots.style.TEMPLATE.layout.font.color)
    assert 1.05 / (text + 0.05) > 4  # on white
    assert (text + 0.05) / (light("#0e1117") + 0.05) > 4
    for colour in (plots.style.BLUE, plots.style.GREY, plots.style.RED, *plots.style.ARMS):
        assert 1.05 / (light(colour) + 0.05) > 3
        assert (light(colour) + 0.05) / (light("#0e1117") + 0.05) > 3


def test_an_ablation_looks_proved_only_where_nothing_speaks_against_it() -> None:
    rows = {
        "name": ["a", "b", "c", "d"],
        "method": ["off-policy"] * 4,
        "value": [1.0, 1.0, 0.1, -1.0],
        "lower": [0.5, 0.5, -0.1, -1.5],
        "upper": [1.5, 1.5, 0.3, -0.5],
        "doubt": ["", "largest weight 350 (of one decision)", None, ""],
    }
    drawn = {bar.y[0][0]: bar for bar in policies.ablations(pa.table(rows)).data}
    found = {name: (bar.marker.color, bar.marker.symbol) for name, bar in drawn.items()}
    assert found == {
        "a": (style.BLUE, None),
        "b": (style.GREY, "x-thin-open"),
        "c": (style.GREY, "circle-open"),
        "d": (style.RED, None),
    }
    told = {name: bar.hovertemplate.partition("<br>")[2] for name, bar in drawn.items()}
    assert [told[name].partition("<")[0] for name in "abcd"] == ["proved", "doubtful", "not proved", "proved"]


def test_an_action_has_one_colour_whatever_else_a_figure_shows() -> None:
    order = ["advice", "collection", "discount", "loyalty"]
    mixed = pa.table({"segment": ["x"] * 2, "n": [1, 1], "action_id": ["loyalty", "none"]})
    (segment,) = policies.segments(mixed, "action_id", order).data
    credited = {
        "method": ["last"] * 3,
        "credit": [1.0, 2.0, 3.0],
        "action_id": ["unknown", "loyalty", "advice"],
    }
    drawn = {
        bar.name: bar.marker.color for bar in plots.credits(pa.table(credited), "", "action_id", order).data
    }
    assert drawn["loyalty"] == segment.marker.color == style.colours(order)["loyalty"]
    assert drawn["unknown"] == style.GREY  # never the colour of an action
