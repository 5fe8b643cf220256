"""Why the model thought so: the features that moved one prediction most, in words, when asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st
from numpy.typing import NDArray

from app.data import Reader
from app.messages import age, language, number, percent, plain, points, say
from app.messages import feature as worded
from nba import tracking
from nba.catalog import NONE
from nba.errors import NbaError
from nba.features.table import FEATURES
from nba.models import explain
from nba.models.scorer import Scorer

TOP = 6


def offer(reader: Reader, row: dict[str, Any], features: pa.Table, *, personal: bool) -> None:
    """Offer the reasons of a decision, worked out only when asked for, since the model must be loaded.

    Args:
        reader: The workspace.
        row: The decision.
        features: What was known of the customer at that moment, one row.
        personal: Whether attributes of customers may be named.
    """
    st.subheader(say("why.title"), help=say("term.shap"))
    if not st.button(say("why.ask"), key="why", icon=":material/psychology:"):
        return
    with st.spinner(say("why.busy")):
        model_id = row["policy_id"].partition("@")[2]
        scorer = _decider(reader, model_id) if model_id else None
        if scorer is None:
            st.info(say("why.gone"), icon=":material/info:")
            return
        example = features.append_column("treatment_id", pa.array([row["treatment_id"]], pa.string()))
        found = explain.reasons(scorer, example)
    told = [_effect, _response]
    if row["policy_id"].startswith("response_greedy@"):
        told.reverse()  # this policy goes by the response
    for tell in told:
        tell(found, row["treatment_id"], reader, personal=personal)


def _effect(found: explain.Reasons, treatment: str, reader: Reader, *, personal: bool) -> None:
    if treatment == NONE:
        st.markdown(say("why.nothing"))
        return
    words = {"uplift": points(found.uplift, signed=True), "usual": points(found.usual, signed=True)}
    st.markdown(say("why.effect", treatment=plain(treatment), **words), help=say("term.uplift"))
    own = (say("why.own"), percent(found.p_none), found.baseline)
    moved = [own, *_named(found, found.effect, reader, personal=personal)]
    _listed(moved, lambda moves: points(moves, signed=True))


def _response(found: explain.Reasons, treatment: str, reader: Reader, *, personal: bool) -> None:
    key = "why.alone" if treatment == NONE else "why.intro"
    st.markdown(say(key, treatment=plain(treatment)))
    moved = _named(found, found.response, reader, personal=personal)
    _listed(moved, lambda moves: number(moves, signed=True))


def _named(
    found: explain.Reasons, moves: NDArray[np.float64], reader: Reader, *, personal: bool
) -> list[tuple[str, str, float]]:
    known = {feature.name: feature for feature in FEATURES}
    out = []
    for name, value, moved in zip(found.names, found.values.tolist(), moves.tolist()):
        if personal or not name.startswith("f_a_"):
            doc = known[name].doc if name in known and language() == "en" else ""
            out.append((doc or worded(name), value_of(name, value, reader.currency), moved))
    return out


def _listed(moved: Sequence[tuple[str, str, float]], write: Callable[[float], str]) -> None:
    strongest = sorted(moved, key=lambda part: -abs(part[2]))[:TOP]
    lines = []
    for shown, value, moves in strongest:
        if moves:
            key = "why.raises" if moves > 0 else "why.lowers"
            lines.append(say(key, feature=plain(shown), value=plain(value), moves=plain(write(moves))))
    st.markdown("\n".join(lines) or say("why.even"))


def value_of(name: str, value: float, currency: str) -> str:
    """Write a feature's value with its unit, as people read it.

    Example:
        >>> value_of("f_days_since_visit", 198.72, "EUR"), value_of("f_can_email", 1.0, "EUR")
        ('199 days', 'yes')
        >>> value_of("f_margin_28", 12.5, "EUR"), value_of("f_app_share", 0.5, "EUR")
        ('12.50 EUR', '50.0%')
    """
    if value != value:
        return say("unknown")
    unit = _UNITS.get(name, "days" if name.startswith("f_days_since_") else "")
    if unit == "flag":
        return say("yes" if value else "no")
    if unit == "days":
        return age(value)
    if unit == "money":
        return number(value, currency)
    if unit == "fraction" or name.startswith("f_response_rate_"):
        return percent(value)
    return number(value)  # its name tells what is counted


_UNITS = {feature.name: feature.unit for feature in FEATURES}


def _decider(reader: Reader, model_id: str) -> Scorer | None:
    # The model that decided, whether or not it is still the champion.
    tracking.setup(reader.config, reader.root)
    try:
        return _load(tracking.policy_name(reader.config), model_id)
    except NbaError:
        return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(name: str, model_id: str) -> Scorer:
    return Scorer.load(tracking.load_model(name, model_id))
