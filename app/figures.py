"""Figures as every page shows them: in the session's language, and with nothing in them that acts."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from app.messages import label, language, named, phrase, phrases, told


def figure(drawn: go.Figure, key: str, alt: str) -> None:
    """Show a figure in the app's theme and language."""
    st.plotly_chart(
        unmarked(localised(_named(drawn, key), own=key in OWN)),
        key=f"figure_{key}",
        alt=alt,
        config={"displaylogo": False},
    )


def _named(drawn: go.Figure, key: str) -> go.Figure:
    # Channels, limits and our own categories have a word each; what the company named keeps its name.
    def word(text: str) -> str:
        # After the figure has its colours: each belongs to a name in data, in every language.
        own = label("limit", text) if key in LIMITS else named(text)
        own = label("method", own) if key in METHODS else own
        return told(own) if key in SPANS else own

    for trace in drawn.data:
        if trace.name:
            trace.name = word(trace.name)
        for part, names in ((trace, ("x", "y")), *((trace[n], ("label",)) for n in ("node",) if n in trace)):
            for name in names:
                if name in part and part[name] is not None:
                    part[name] = _each(part[name], word)
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        for name in ("categoryarray", "ticktext"):
            if axis[name] is not None:
                axis[name] = _each(axis[name], word)
    return drawn


# Figures of limits, of methods of attribution, and those whose categories are spans of numbers.
LIMITS = ("prices",)
METHODS = ("credits", "caused")
SPANS = ("clv",)


def _each(found: Any, change: Callable[[str], str]) -> Any:
    if isinstance(found, str):
        return change(found)
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "OUT":
            return found
        changed = [change(x) if isinstance(x, str) else x for x in found.ravel()]
        return np.array(changed, dtype=object).reshape(found.shape)
    return tuple(_each(x, change) for x in found) if isinstance(found, list | tuple) else found


def unmarked(drawn: go.Figure) -> go.Figure:
    """Let texts that come from data show as they are: plotly reads a little HTML in them.

    Args:
        drawn: The figure; it is changed.
    """
    for trace in drawn.data:
        for part in [trace, *(trace[name] for name in ("node", "link") if name in trace)]:
            for name in _TEXTS:
                if name in part and part[name] is not None:
                    part[name] = _texts(part[name])
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        for name in ("categoryarray", "ticktext"):
            if axis[name] is not None:
                axis[name] = _texts(axis[name])
    return drawn


_TEXTS = ("x", "y", "name", "text", "customdata", "label", "labels")


def _texts(found: Any) -> Any:
    if isinstance(found, str):
        return re.sub("<(?!br>)", "&lt;", found)  # our own figures break long names
    if isinstance(found, np.ndarray):
        if found.dtype.kind not in "OUT" or not any("<" in str(one) for one in found.ravel()):
            return found
        return np.array([_texts(one) for one in found.ravel()], dtype=object).reshape(found.shape)
    return tuple(map(_texts, found)) if isinstance(found, list | tuple) else found


# Figures whose legend holds our own words; in all others it holds the company's names.
OWN = (
    *("calibration", "qini", "uplift", "nothing", "ranking", "detectable", "removed", "caused"),
    *("deciles", "drift", "versions", "power"),
)


def localised(drawn: go.Figure, *, own: bool = False) -> go.Figure:
    """Put a figure's own words, numbers and days into the session's language.

    Args:
        drawn: The figure; it is changed.
        own: Whether the names of its traces are our own words.
    """
    if not phrases(language()):
        return drawn
    drawn.update_layout(separators=",.")
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        if axis.title.text:
            axis.title.text = _translated(axis.title.text)
        if axis.tickformat:
            axis.tickformat = axis.tickformat.replace("%-d %b", "%-d/%-m")
        if axis.hoverformat:
            axis.hoverformat = axis.hoverformat.replace("%-d %b", "%-d/%-m")
    for note in drawn.layout.annotations:
        note.text = phrase(note.text)
    for trace in drawn.data:
        if own and trace.name:
            trace.name = told(trace.name)
        if isinstance(getattr(trace, "hovertemplate", None), str):
            trace.hovertemplate = _translated(trace.hovertemplate).replace("%d %b %Y", "%d/%m/%Y")
    return drawn


def _translated(text: str) -> str:
    # Whole phrases only, longest first; what is replaced is not looked at again.
    out, rest = "", text
    while rest:
        for english, own in phrases(language()):
            if rest.startswith(english) and not (out and out[-1].isalpha() and english[0].isalpha()):
                end = rest[len(english) : len(english) + 1]
                if not (english[-1].isalpha() and end.isalpha()):
                    out, rest = out + own, rest[len(english) :]
                    break
        else:
            out, rest = out + rest[0], rest[1:]
    return out
