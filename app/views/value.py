"""Value finder: customers for whom the policy has nothing, or nothing worth much, as segments to read."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import streamlit as st

from app import figures, grid, markup, parts
from app.data import Reader
from app.messages import conditions, number, say
from nba import tables
from nba.plots import policies

NAME = "value_finder"


def draw(reader: Reader) -> None:
    """Show the page."""
    if not parts.filled(reader, NAME):
        return
    shown = by_worth(reader.table(NAME))
    segments = apart(shown["segment"].to_pylist())
    place = shown.column_names.index("segment")
    shown = shown.set_column(place, "segment", pa.array(segments, pa.string()))
    worst = shown.slice(0, 1).to_pylist()[0]
    words = {
        "segment": say("value.everybody")
        if worst["segment"] == "everybody"
        else f"**{markup.safe(conditions(worst['segment']))}**",
        "n": number(worst["n"]),
        "nothing": number(worst["n_nothing"]),
        "blocked": number(worst["blocked"], reader.currency),
        "total": number(worst["blocked_total"], reader.currency),
    }
    st.markdown(say("value.worst", **words))
    # One number each, so that a row of the table is found in the figure.
    told = grid.worded(shown)
    names = [f"{i} · {name}" for i, name in enumerate(told["segment"].to_pylist(), 1)]
    drawn = told.set_column(place, "segment", pa.array(names, pa.string()))
    figures.figure(policies.nothing(drawn), "nothing", say("alt.nothing"))
    contract = tables.VALUE_FINDER
    number_of = tables.Field("place", "count", "number of the segment in the figure")
    grid.table(
        shown.append_column("place", pa.array(range(1, len(names) + 1), pa.int64())),
        ["place", "n_nothing", "reason", "blocked_total", "n", "best", "blocked", "segment"],
        replace(contract, fields=(*contract.fields, number_of)),
        reader.currency,
        NAME,
    )
    st.caption(say("value.note"))


def by_worth(table: pa.Table) -> pa.Table:
    """Put the segments in order of what rules keep back from them together, most first, unknown last."""
    rows = sorted(table.to_pylist(), key=lambda row: -(row["blocked_total"] or 0.0))
    return tables.VALUE_FINDER.build(rows)


def apart(segments: list[str]) -> list[str]:
    """Put the conditions of segments in order: first those that the fewest others share.

    Example:
        >>> apart(["a: 1, b: 1, c: 1", "a: 1, b: 1, c: 2", "a: 1, b: 2"])
        ['c: 1, b: 1, a: 1', 'c: 2, b: 1, a: 1', 'b: 2, a: 1']
    """
    parts_of = [text.split(", ") for text in segments]
    shared = Counter(part for parts in parts_of for part in parts)
    return [", ".join(sorted(parts, key=lambda part: shared[part])) for parts in parts_of]


parts.page("value", draw)
