"""Why the model thought so: the features that moved one prediction most, in words."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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


def tell(reader: Reader, row: dict[str, Any], features: pa.Table, *, personal: bool) -> None:
    """Tell the reasons of a decision.

    The first reading of a model takes seconds, each further reason a few hundredths of one: a page that calls
    this after all else is read meanwhile.

    Args:
        reader: The workspace.
        row: The decision.
        features: What was known of the customer at that moment, one row.
        personal: Whether attributes of customers may be named.
    """
    model_id = row["policy_id"].partition("@")[2]
    if not model_id:
        st.info(say("why.no_model"), icon=":material/info:")
        return
    with st.spinner(say("why.busy")):
        store = tracking.setup(reader.config, reader.root).registry
        try:
            scorer = _load(tracking.policy_name(reader.config), model_id)
        except NbaError:
            st.info(say("why.gone", model=plain(model_id), store=_public(store)), icon=":material/info:")
            return
        example = features.append_column("treatment_id", pa.array([row["treatment_id"]], pa.string()))
        found = explain.reasons(scorer, example)
    told = [_effect, _response]
    if row["policy_id"].startswith("response_greedy@"):
        told.reverse()  # this policy goes by the response
    for part in told:
        part(found, row["treatment_id"], reader, personal=personal)


def _effect(found: explain.Reasons, treatment: str, reader: Reader, *, personal: bool) -> None:
    if treatment == NONE:
        st.markdown(say("why.nothing"))
        return
    words = {"uplift": points(found.uplift, signed=True), "usual": points(found.usual, signed=True)}
    st.markdown(say("why.effect", treatment=plain(treatment), **words), help=say("term.uplift"))
    own = Moved(say("why.own"), percent(found.p_none), found.baseline)
    moved = [own, *_named(found, found.effect, reader, personal=personal)]
    _listed(moved, lambda moves: points(moves, signed=True))


class Moved(NamedTuple):
    """What moved a prediction: its name, its value, by how much, and what it is in full ("" where unsaid)."""

    name: str
    value: str
    moves: float
    doc: str = ""


def _response(found: explain.Reasons, treatment: str, reader: Reader, *, personal: bool) -> None:
    key = "why.alone" if treatment == NONE else "why.intro"
    st.markdown(say(key, treatment=plain(treatment)))
    moved = _named(found, found.response, reader, personal=personal)
    _listed(moved, lambda moves: number(moves, signed=True))


def _named(
    found: explain.Reasons, moves: NDArray[np.float64], reader: Reader, *, personal: bool
) -> list[Moved]:
    known = {feature.name: feature for feature in FEATURES}
    out = []
    for name, value, moved in zip(found.names, found.values.tolist(), moves.tolist()):
        if personal or not name.startswith("f_a_"):
            # Definitions are only there in English: rather none than one in another language.
            doc = known[name].doc if name in known and language() == "en" else ""
            out.append(Moved(worded(name), value_of(name, value, reader.currency), moved, doc))
    return out


def _listed(moved: Sequence[Moved], write: Callable[[float], str]) -> None:
    strongest = [part for part in sorted(moved, key=lambda part: -abs(part.moves))[:TOP] if part.moves]
    if not strongest:
        st.markdown(say("why.even"))
    with st.container(gap=None):
        for part in strongest:
            key = "why.raises" if part.moves > 0 else "why.lowers"
            words = {"feature": part.name, "value": part.value, "moves": write(part.moves)}
            text = say(key, **{name: plain(word) for name, word in words.items()})
            st.markdown(text, help=plain(part.doc) or None)


def _public(store: str) -> str:
    # Never with the password that the address of a database may hold.
    found = urlsplit(store)
    return store.replace(found.netloc, found.netloc.rpartition("@")[2]) if found.netloc else store


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


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(name: str, model_id: str) -> Scorer:
    # The model that decided, whether or not it is still the champion.
    return Scorer.load(tracking.load_model(name, model_id))
