"""Why the model thought so: the features that moved one prediction most, in words, when asked for."""

from typing import Any

import pyarrow as pa
import streamlit as st

from app.data import Reader
from app.messages import feature as worded
from app.messages import language, number, plain, say
from nba import tracking
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
        try:
            scorer = _champion(reader)
        except NbaError:
            scorer = None
        if scorer is None or not row["policy_id"].endswith(scorer.model_id):
            st.info(say("why.gone"), icon=":material/info:")
            return
        example = features.append_column("treatment_id", pa.array([row["treatment_id"]], pa.string()))
        found = explain.explain(scorer, example)
    docs = {feature.name: feature.doc for feature in FEATURES}
    moved = sorted(zip(found.names, found.values[0], found.response[0]), key=lambda part: -abs(part[2]))
    told = [part for part in moved if personal or not part[0].startswith("f_a_")]
    st.markdown(say("why.intro", treatment=plain(row["treatment_id"])))
    for name, value, moves in told[:TOP]:
        words = docs.get(name, "") if language() == "en" else ""
        shown = words or worded(name)
        key = "why.raises" if moves > 0 else "why.lowers"
        st.markdown(
            say(
                key, feature=plain(shown), value=number(float(value)), moves=number(float(moves), signed=True)
            )
        )


def _champion(reader: Reader) -> Scorer | None:
    tracking.setup(reader.config, reader.root)
    name = tracking.policy_name(reader.config)
    _registered, tags = tracking.find(name, tracking.CHAMPION)
    return _load(name, tags.get("model_id", ""))


@st.cache_resource(max_entries=4, show_spinner=False)
def _load(name: str, model_id: str) -> Scorer:  # noqa: ARG001
    folder, _version = tracking.load_policy(name)
    return Scorer.load(folder)
