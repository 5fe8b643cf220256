"""Figures of what a model rests on: how it depends on a feature, and which features have moved."""

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from nba.plots import style


def dependence(table: pa.Table, feature: str) -> go.Figure:
    """Draw how the contribution to the log-odds changes with a feature's value.

    Args:
        table: Columns value, contribution, lower, upper, n of one feature, in order of the value.
        feature: Its name, the title of the axis.
    """
    data = style.columns(table, "dependence", ("value", "contribution", "lower", "upper", "n"))
    figure = style.figure(feature, "Contribution to the log-odds")
    if not table.num_rows:
        return style.empty(figure)
    order = np.argsort(data["value"], kind="stable")
    x, y, low, high, n = (data[name][order] for name in ("value", "contribution", "lower", "upper", "n"))
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=style.BAND,
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": style.BLUE, "width": 2},
        customdata=n,
        hovertemplate="%{x:.3g}: %{y:+.3f}<br>n = %{customdata:,}<extra></extra>",
    )
    return style.zero_line(figure.update_layout(showlegend=False, height=260), "h")


def drift(table: pa.Table, limit: float) -> go.Figure:
    """Draw how far features have moved, those beyond a limit in another colour.

    Args:
        table: Columns feature, psi, largest first.
        limit: Drawn as a line.
    """
    data = style.columns(table, "drift", ("feature", "psi"))
    figure = style.figure("Population stability index", "")
    if not table.num_rows:
        return style.empty(figure)
    names = [str(name).removeprefix("f_").replace("_", " ") for name in data["feature"]]
    figure.add_bar(
        x=data["psi"][::-1],
        y=names[::-1],
        orientation="h",
        marker={"color": [style.RED if value > limit else style.BLUE for value in data["psi"][::-1]]},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.add_vline(x=limit, line=style.dashed())
    return figure.update_layout(height=max(220, 26 * len(names) + 90))
