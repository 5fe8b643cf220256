"""The planner: how long an experiment must run to see an effect, and its declaration to download."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app import figures, grid, parts, report
from app.data import Reader
from app.messages import count, day, label, number, percent, plain, say
from nba import settings
from nba.experiments import planning
from nba.plots import readings

USUAL_DAYS = 28
MOST = 1e9  # of what a link may ask for
FARTHEST = timedelta(days=3650)  # of a start from what is known
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of an experiment: it is a file's name too
POLICIES = ("champion", "challenger", "random", "response_greedy")


def draw(reader: Reader) -> None:
    """Show the planner."""
    if not parts.filled(reader, "summary_spreads"):
        return
    st.markdown(say("planner.intro"))
    rows = reader.rows("summary_spreads")
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    left, middle, right = st.columns(3)
    metric = parts.choose(say("metric"), metrics, "plan_metric", "metric_short", where=left)
    spreads = {
        row["days"]: planning.Spread(row["n"], row["mean"], row["sd"], row["sd_adjusted"])
        for row in rows
        if row["metric"] == metric
    }
    experiment = reader.config.experiment.experiment_id
    unit = report.unit_of(reader, metric, experiment)
    unit = "" if unit == grid.RATE else unit
    days = int(parts.choose(say("planner.days"), _days(spreads), "days", where=middle))
    share = _percent(right, "share", say("planner.share"), (1, 50, 10), say("planner.share_help")) / 100
    goal = _percent(left, "goal", say("planner.goal"), (50, 95, 80), say("term.power")) / 100
    reach = _percent(middle, "reach", say("planner.reach"), (5, 100, 100), say("planner.reach_help"))
    given = planning.within(spreads, reader.config.trial_share * reach / 100)
    if not given[days].sd_adjusted > 0:
        st.info(say("planner.still"), icon=":material/straighten:")
        return
    curve = planning.curve(given, (1 - share, share), goal)
    row = next(r for r in curve.to_pylist() if r["days"] == days)
    least = row["mde_adjusted"]
    title = f"{say('planner.effect')} ({unit})" if unit else say("planner.effect")
    key = f"effect_{metric}"  # an effect of one metric is none of another
    effect = parts.kept(
        key, float(least), parts.between(0.0, MOST),
        lambda: right.number_input(
            title, min_value=0.0, format="%.4f", help=say("planner.effect_help"), key=key
        ),
    )  # fmt: skip
    if effect <= 0:
        st.info(say("planner.no_effect"), icon=":material/straighten:")
        return
    found = planning.outlook(given[days], effect, share, goal)
    _answer(found, days, unit, row["mde_relative"])
    left, right = parts.halves()
    with left:
        st.subheader(say("planner.power"), help=say("term.power"))
        drawn = planning.powers(given[days], found, effect)
        figures.figure(readings.power(drawn, goal, unit), "power", say("alt.power"))
    with right:
        st.subheader(say("planner.detectable"), help=say("term.mde"))
        each = report.is_per_customer(reader, metric, experiment)
        drawn = readings.detectable(curve, unit, per_customer=each)
        figures.figure(drawn, "detectable", say("alt.detectable"))
    grid.download(curve, "plan")
    _declare(reader, metric, days, share, reach / 100, effect)


def _percent(where: DeltaGenerator, key: str, title: str, ends: tuple[int, int, int], meaning: str) -> int:
    # Lowest, highest and usual percentage.
    low, high, usual = ends
    read = parts.between(low, high)
    return int(
        parts.kept(
            key, usual, read, lambda: where.slider(title, low, high, format="%d%%", help=meaning, key=key)
        )
    )


def _answer(found: planning.Outlook, days: int, unit: str, relative: float | None) -> None:
    against = say("planner.against", n=count(found.n_control))
    of_mean = say("planner.relative", share=percent(relative))
    parts.numbers(
        (say("planner.arm"), count(found.n), "", against),
        (say("planner.mde"), number(found.mde, unit), say("term.mde"), of_mean),
        (say("planner.chance"), percent(found.chance, digits=0), say("term.power"), ""),
        (say("planner.size"), count(found.needed), say("planner.size_help"), ""),
    )
    text = say("planner.long_enough" if found.is_enough else "planner.too_short", days=count(days))
    (st.success if found.is_enough else st.warning)(text, icon=":material/timer:")


@parts.section()
def _declare(reader: Reader, metric: str, days: int, share: float, reach: float, effect: float) -> None:
    st.subheader(say("planner.declare"))
    st.markdown(say("planner.declare_note"))
    left, middle, right = st.columns(3)
    name = parts.kept(
        "trial", "trial", lambda texts: next(iter(texts), None),
        lambda: left.text_input(say("planner.name"), key="trial"),
    )  # fmt: skip
    treatment = parts.kept(
        "new_policy", POLICIES[1], parts.among(POLICIES[1:]),
        lambda: middle.selectbox(
            say("planner.new"), POLICIES[1:], format_func=lambda p: label("arm_policy", p), key="new_policy"
        ),
    )  # fmt: skip
    known = _known(reader)
    start = parts.kept(
        "starts", _next_monday(known), _near(known.date()),
        lambda: right.date_input(say("planner.starts"), key="starts"),
    )  # fmt: skip
    if not NAME.fullmatch(name):
        st.error(say("planner.bad_name"), icon=":material/error:")
        return
    if name in {one.experiment_id for one in (reader.config.experiment, *reader.config.experiments)}:
        st.error(say("planner.taken", name=plain(name)), icon=":material/error:")
        return
    begins = datetime.combine(start, time(6), UTC)
    if begins <= known:
        st.error(say("planner.begun", at=day(known)), icon=":material/error:")
        return
    arms = [
        {"name": f"{name}_control", "share": round(share, 4), "policy": "champion"},
        {"name": f"{name}_new", "share": round(1 - share, 4), "policy": str(treatment)},
    ]
    declared = next(m for m in reader.config.experiment.metrics if m.name == metric)
    primary = declared.model_copy(update={"role": "primary", "planned_effect": effect, "margin": 0.0})
    guards = [m for m in reader.config.experiment.metrics if m.role == "guardrail" and m.name != metric]
    trial = settings.declare(
        reader.config,
        {
            "experiment_id": name,
            "salt": name,
            "control": f"{name}_control",
            "arms": arms,
            "metrics": [m.model_dump(exclude_none=True) for m in (primary, *guards)],
            "starts_at": begins,
            "ends_at": begins + timedelta(days=days),
            "slots": (0.0, reach),
        },
    )
    text = settings.declaration(trial)
    st.download_button(
        say("planner.download"), text, f"{name}.toml", "application/toml", key="declaration",
        type="primary", icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    with st.expander(say("planner.text")):
        st.code(text, language="toml")


def _near(known: date) -> Callable[[list[str]], date | None]:
    # Reads a day from the URL, of some years around what is known: no calendar goes on after 9999.
    def read(texts: list[str]) -> date | None:
        try:
            found = date.fromisoformat(texts[0])
        except (IndexError, ValueError):
            return None
        return found if abs(found - known) <= FARTHEST else None

    return read


def _known(reader: Reader) -> datetime:
    # Until when the workspace knows what happened: what is decided by then is no experiment's any more.
    return reader.moment("summarised") or datetime.now(UTC)


def _next_monday(at: datetime) -> date:
    return (at + timedelta(days=7 - at.weekday())).date()


def _days(spreads: Mapping[int, planning.Spread]) -> list[str]:
    # Four weeks first: long enough for most rewards to come in.
    return [str(d) for d in sorted(spreads, key=lambda d: (d != USUAL_DAYS, d))]
