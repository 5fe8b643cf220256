"""Figures of experiments: what every look saw, and what a plan can see."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from nba.plots import style


def sequence(
    table: pa.Table, currency: str = "", order: Sequence[str] = (), *, per_customer: bool = True
) -> go.Figure:
    """Draw what each look of an experiment saw, with intervals that hold at all looks together.

    Args:
        table: Columns arm, looked_at, effect, lower, upper of the `looks` table, of one metric.
        currency: Unit of the metric where it is money; "%" where it is a fraction.
        order: Arms of all figures, for their colours; the first drawn has its band filled, others edges.
        per_customer: Whether the metric is a mean per customer; not a ratio or a quantile.
    """
    form = style.difference(currency)
    data = style.columns(table, "looks", ("arm", "looked_at", "effect", "lower", "upper"))
    title = "Effect per customer so far" if per_customer else "Effect so far"
    figure = style.figure("Look", style.unit(title, currency))
    known = ~np.isnan(data["effect"])
    if not known.any():
        return style.empty(figure)
    found = set(data["arm"][known])
    arms = [arm for arm in order if arm in found] + sorted(found - set(order))
    colour = style.arms(arms, order)
    for arm in arms:
        rows = np.flatnonzero(known & (data["arm"] == arm))
        rows = rows[np.argsort(data["looked_at"][rows])]
        at, low, high = (data[name][rows] for name in ("looked_at", "lower", "upper"))
        is_first = arm == arms[0]
        # Bands filled one over another cannot be told apart; edges alone are two lines that do not meet.
        turn = slice(0, 0 if is_first else 1)
        figure.add_scatter(
            x=np.concatenate([at, at[::-1][turn], at[::-1]]),
            y=np.concatenate([high, [np.nan][turn], low[::-1]]),
            mode="lines",
            fill="toself" if is_first else "none",
            fillcolor=_faint(colour[arm]),
            line={"width": 0} if is_first else {"width": 1, "dash": "dot", "color": colour[arm]},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=arm,
        )
        figure.add_scatter(
            x=at,
            y=data["effect"][rows],
            name=arm,
            mode="lines+markers",
            legendgroup=arm,
            line={"color": colour[arm], "width": 2},
            customdata=np.column_stack([low, high]),
            hovertemplate=f"%{{x|%d %b %Y}}: %{{y:{form}}}{style.behind(currency)} (%{{customdata[0]:{form}}}"
            f" to %{{customdata[1]:{form}}})"
            "<extra>%{fullData.name}</extra>",
        )
    moments = np.unique(data["looked_at"][known])
    figure.update_yaxes(tickformat=".1%" if currency == "%" else None)
    return style.zero_line(style.time_axis(figure, moments), "h")


def power(table: pa.Table, goal: float = 0.8, currency: str = "") -> go.Figure:
    """Draw the chance to see an effect against its true size.

    Args:
        table: Columns effect (unit of the metric), power (probability 0-1).
        goal: Drawn as a line.
        currency: Unit of the metric where it is money.
    """
    data = style.columns(table, "power", ("effect", "power"))
    figure = style.figure(style.unit("True effect per customer", currency), "Chance to see it")
    if not table.num_rows:
        return style.empty(figure)
    figure.add_scatter(
        x=data["effect"],
        y=data["power"],
        mode="lines",
        line={"color": style.BLUE, "width": 3},
        name="power",
        hovertemplate="effect %{x:.3g}: seen in %{y:.0%} of cases<extra></extra>",
    )
    figure.add_hline(y=goal, line=style.dashed())
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02]).update_layout(showlegend=False)


def detectable(table: pa.Table, currency: str = "", *, per_customer: bool = True) -> go.Figure:
    """Draw the smallest visible effect by duration, with and without what was known before (CUPED).

    A mean per customer grows with the days, and the effect with it: it is drawn per day, so that it falls
    where a longer experiment sees more.

    Args:
        table: Columns days, mde, mde_adjusted (unit of the metric).
        currency: Unit of the metric where it is money.
        per_customer: Whether the metric is a mean per customer; not a ratio or a quantile.
    """
    data = style.columns(table, "detectable", ("days", "mde", "mde_adjusted"))
    title = "Smallest visible effect per customer and day" if per_customer else "Smallest visible effect"
    figure = style.figure("Days", style.unit(title, currency))
    if not table.num_rows:
        return style.empty(figure)
    parts: Mapping[str, tuple[str, str, str]] = {
        "mde_adjusted": ("with adjustment", style.BLUE, "circle"),
        "mde": ("without adjustment", style.ORANGE, "square"),
    }
    for column, (name, colour, mark) in parts.items():
        figure.add_scatter(
            x=data["days"],
            y=data[column] / (data["days"] if per_customer else 1),
            name=name,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"symbol": mark, "size": 9},
            hovertemplate="%{x} days: %{y:.3g}<extra>%{fullData.name}</extra>",
        )
    return figure.update_yaxes(rangemode="tozero", exponentformat="none")


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
