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


def versions(table: pa.Table) -> go.Figure:
    """Draw how well each version finds whom contact changes, with intervals; the champion in another colour.

    Args:
        table: Columns version, alias, qini, qini_lower, qini_upper (NaN where unknown) and auc.
    """
    names = ("version", "alias", "qini", "qini_lower", "qini_upper", "auc")
    data = style.columns(table, "models", names)
    figure = style.figure("Version", "Uplift found (Qini)")
    known = ~np.isnan(data["qini"])
    if not known.any():
        return style.empty(figure)
    is_champion = np.array(["champion" in str(alias) for alias in data["alias"]])
    for name, rows, colour, mark in (
        ("champion", known & is_champion, style.ORANGE, "diamond"),
        ("other versions", known & ~is_champion, style.BLUE, "circle"),
    ):
        y, low, high = (data[column][rows] for column in ("qini", "qini_lower", "qini_upper"))
        figure.add_scatter(
            x=data["version"][rows],
            y=y,
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": mark, "size": 11},
            error_y=style.whiskers(y, low, high),
            customdata=data["auc"][rows],
            hovertemplate="%{y:.3f}<br>AUC %{customdata:.3f}<extra>%{fullData.name} %{x}</extra>",
        )
    figure.update_xaxes(dtick=1 if known.sum() <= style.MAX_TICKS else None)
    return style.zero_line(figure.update_layout(height=280), "h")


def freshness(table: pa.Table) -> go.Figure:
    """Draw how old the newest row of each table is, oldest on top.

    Args:
        table: Columns table, days_behind (NaN where unknown), n_rows.
    """
    data = style.columns(table, "summary_tables", ("table", "days_behind", "n_rows"))
    figure = style.figure("Days since the newest row", "")
    known = np.flatnonzero(~np.isnan(data["days_behind"]))
    if not len(known):
        return style.empty(figure)
    order = known[np.argsort(data["days_behind"][known], kind="stable")]
    figure.add_bar(
        x=data["days_behind"][order],
        y=data["table"][order],
        orientation="h",
        marker={"color": style.BLUE},
        customdata=data["n_rows"][order],
        hovertemplate="%{y}: %{x:.1f} days, %{customdata:,.0f}<extra></extra>",
    )
    return figure.update_layout(height=max(200, 26 * len(order) + 90))
