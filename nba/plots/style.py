"""What figures share: colours, the template, and small parts of a drawing."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nba.errors import DataError

# Okabe & Ito (2008), told apart under every common colour blindness; grey is no contact, or none of ours.
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#8C8C8C",
)
CHANNEL: Mapping[str, str] = MappingProxyType(
    {
        "email": BLUE,
        "sms": ORANGE,
        "push": GREEN,
        "call": PINK,
        "budget": RED,
        "none": GREY,
        "organic": SKY,
        "unknown": GREY,
    }
)
FIRST = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
# Of arms, found by search: at least 30 from every channel's, 22 from each other in every common colour
# blindness (CIE Lab), and 3 : 1 on white and on the app's dark ground.
ARMS = ("#7755CC", "#BB8866", "#007777", "#FF44AA", "#999900", "#BB2222")
WHEEL = (*FIRST, *ARMS)
MAX_TICKS = 16
LABELLED = 8  # of those
RING = "#D55E00"  # of what stands out, on light and dark
PATTERN = ("", "/", "\\", "x", ".", "+", "-", "|")
MARK = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
BAND = "rgba(0,114,178,0.18)"
_TEXT, _GRID = "#737884", "rgba(128,132,149,0.25)"
TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": _TEXT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": WHEEL,
        "xaxis": {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True},
        "yaxis": {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True},
    }
)


def colours(names: Iterable[str]) -> dict[str, str]:
    """Give each name its colour: channels a fixed one, others one by hash, no two alike while they last.

    Example:
        >>> colours(["sms", "email"])
        {'sms': '#E69F00', 'email': '#0072B2'}
    """
    out: dict[str, str] = {}
    distinct = list(dict.fromkeys(names))
    taken = {CHANNEL[name] for name in distinct if name in CHANNEL}
    # Those told apart best go first; the others serve only once they are used up.
    tiers = [[c for c in tier if c not in taken] for tier in (FIRST, WHEEL[len(FIRST) :])]
    for name in sorted(n for n in distinct if n not in CHANNEL):
        free = next((tier for tier in tiers if tier), list(WHEEL))
        out[name] = free.pop(zlib.crc32(name.encode()) % len(free))
    return {name: CHANNEL.get(name) or out[name] for name in distinct}


def arms(names: Iterable[str], order: Sequence[str] = ()) -> dict[str, str]:
    """Give each arm its colour, which no channel has.

    Args:
        names: Arms to draw.
        order: All arms that any figure may draw; with it an arm has one colour in all of them.

    Example:
        >>> arms(["random"], ["policy", "random"])
        {'random': '#BB8866'}
    """
    distinct = set(names)
    known = [*dict.fromkeys(order), *sorted(distinct - set(order))]
    return {name: ARMS[i % len(ARMS)] for i, name in enumerate(known) if name in distinct}


def columns(table: pa.Table, what: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the columns that a figure needs as arrays; DataError names those that are missing."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"the {what} table lacks {missing}; found {table.column_names}",
            f"Make it with the step that writes {what}.",
        )
    out = {}
    for name in names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            out[name] = column.cast(pa.timestamp("us")).to_numpy()
        elif pa.types.is_floating(column.type) or (column.null_count and pa.types.is_integer(column.type)):
            out[name] = column.cast(pa.float64()).to_numpy()
        elif pa.types.is_string(column.type):
            # Plotly reads a little HTML in names; what comes from data is text.
            out[name] = pc.replace_substring(column, "<", "&lt;").to_numpy()
        else:
            out[name] = column.to_numpy()
    return out


def figure(x: str, y: str) -> go.Figure:
    """Begin a figure with the titles of its axes."""
    drawn = go.Figure()
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    drawn.update_layout(template=TEMPLATE, margin={"l": 10, "r": 20, "t": 40, "b": 10}, legend=legend)
    return drawn.update_xaxes(title=x).update_yaxes(title=y)


def empty(figure: go.Figure) -> go.Figure:
    """Say in a figure that there is nothing to show."""
    figure.update_layout(height=160).update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text="Nothing to show yet", showarrow=False, xref="paper", yref="paper")


def unit(text: str, currency: str) -> str:
    """Put the currency behind a title, where there is one; a percentage stands at the numbers."""
    return f"{text} ({currency})" if currency and currency != "%" else text


def behind(currency: str) -> str:
    """Give what follows an amount in a tooltip: the currency, where there is one."""
    return f" {currency}" if currency and currency != "%" else ""


def difference(currency: str) -> str:
    """Give the format of a difference in a tooltip."""
    return "+.2%" if currency == "%" else "+.4g"


def dashed() -> dict[str, Any]:
    """Give the line of what is compared with."""
    return {"color": GREY, "dash": "dash", "width": 1.5}


def whiskers(middle: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any]) -> dict[str, Any]:
    """Give error bars from the ends of intervals."""
    return {
        "type": "data",
        "symmetric": False,
        "array": upper - middle,
        "arrayminus": middle - lower,
        "thickness": 1.5,
        "width": 4,
    }


def time_axis(figure: go.Figure, moments: Sequence[Any] | NDArray[Any]) -> go.Figure:
    """Make the x axis one of dates."""
    # A tick at batches while they fit; its day, not the hour. So few that no label turns in a narrow window.
    step = -(-len(moments) // LABELLED) or 1
    ticks = {"tickvals": list(moments)[::step]} if len(moments) <= MAX_TICKS else {}
    return figure.update_xaxes(type="date", tickformat="%-d %b\n%Y", hoverformat="%-d %b %Y", **ticks)


def zero_line(figure: go.Figure, way: str) -> go.Figure:
    """Draw a line at no effect."""
    line = {"line": {"color": GREY, "width": 1.5, "dash": "dash"}}
    return figure.add_hline(y=0, **line) if way == "h" else figure.add_vline(x=0, **line)


def spacing(moments: NDArray[Any]) -> float:
    """Give the seconds between neighbouring moments."""
    # Seconds between neighbouring batches, to set the arms' intervals beside each other.
    distinct = np.unique(np.asarray(moments, dtype="datetime64[us]").astype(np.int64))
    return float(np.min(np.diff(distinct)) / 1e6) if len(distinct) > 1 else 86_400.0


def span(lower: float, upper: float) -> str:
    """Write a range in words."""
    if np.isinf(upper):
        return f"{lower:,.0f} and more"
    return f"{lower:,.0f} to {upper:,.0f}"
