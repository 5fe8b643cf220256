"""Figures of attribution and lifetime value: paths to an order, their length, credit against cause, alive."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from nba.plots import style

STEPS = 5  # of a path that are drawn; the first ones are left out of longer paths
VIOLET = "#7570B3"
LINK = "rgba(128,132,149,0.30)"


def paths(table: pa.Table, top: int = 15) -> go.Figure:
    """Draw the most frequent paths as a flow: who came over which channels, and how many ordered.

    Args:
        table: Columns measure, item, conversions, nulls of the `path_statistics` table.
        top: Paths drawn.
    """
    data = style.columns(table, "path_statistics", ("measure", "item", "conversions", "nulls"))
    rows = np.flatnonzero(data["measure"] == "path")
    ways = {
        i: [part.strip().replace("&lt;", "<") for part in str(data["item"][i]).split(" > ")] for i in rows
    }
    weight = {i: (float(data["conversions"][i]), float(np.nan_to_num(data["nulls"][i]))) for i in rows}
    best = sorted(rows, key=lambda i: -sum(weight[i]))[:top]
    figure = style.figure("", "")
    if not len(best):
        return style.empty(figure)
    links: dict[tuple[tuple[int, str], tuple[int, str]], float] = {}
    for i in best:
        way = ways[i][-STEPS:]
        for end, size in zip(("order", "no order"), weight[i]):
            nodes = [(STEPS - len(way) + step, name) for step, name in enumerate(way)]
            for pair in zip(nodes, [*nodes[1:], (STEPS, end)]):
                if size > 0:
                    links[pair] = links.get(pair, 0.0) + size
    nodes = sorted({node for pair in links for node in pair})
    number = {node: i for i, node in enumerate(nodes)}
    colour = style.colours([name for _, name in nodes]) | {"order": style.GREEN, "no order": style.GREY}
    figure.add_sankey(
        node={
            "label": [name.replace("<", "&lt;") for _, name in nodes],
            "color": [colour[name] for _, name in nodes],
            "pad": 14,
            "thickness": 14,
            "hovertemplate": "%{label}: %{value:,.0f}<extra></extra>",
        },
        link={
            "source": [number[a] for a, _ in links],
            "target": [number[b] for _, b in links],
            "value": list(links.values()),
            "color": LINK,
            "hovertemplate": "%{source.label} → %{target.label}: %{value:,.0f}<extra></extra>",
        },
    )
    return figure.update_layout(height=460)


def counts(table: pa.Table, measure: str, x: str, most: int = 30) -> go.Figure:
    """Draw how many orders came after so many touches, or days.

    Args:
        table: Columns measure, item, conversions of the `path_statistics` table.
        measure: length or lag_days.
        x: Title of the axis.
        most: Larger values are put together.
    """
    data = style.columns(table, "path_statistics", ("measure", "item", "conversions"))
    rows = data["measure"] == measure
    figure = style.figure(x, "Orders")
    if not rows.any():
        return style.empty(figure)
    values = np.minimum(np.array([float(item) for item in data["item"][rows]]), most).astype(int)
    found = np.bincount(values, weights=data["conversions"][rows].astype(float))
    first = int(values.min())
    names = [str(i) if i < most else f"{i}+" for i in range(first, len(found))]
    figure.add_bar(
        x=names,
        y=found[first:],
        marker={"color": style.BLUE},
        hovertemplate="%{x}: %{y:,.0f}<extra></extra>",
    )
    return figure.update_xaxes(type="category").update_layout(bargap=0.08, height=300)


def credited_against_caused(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw by channel what methods credit beside what contact caused, with its interval.

    Args:
        table: Columns method, channel, compared, incremental, lower, upper of the `attribution` table, of
            one period.
        currency: Unit of the money.
    """
    names = ("method", "channel", "compared", "incremental", "lower", "upper")
    data = style.columns(table, "attribution", names)
    figure, money = style.figure("", style.unit("Margin", currency)), style.behind(currency)
    known = ~np.isnan(data["incremental"])
    if not known.any():
        return style.empty(figure)
    channels = list(dict.fromkeys(data["channel"][known]))
    methods = list(dict.fromkeys(data["method"][known]))
    first = {c: int(np.flatnonzero(known & (data["channel"] == c))[0]) for c in channels}
    middle, low, high = (
        np.array([data[name][first[c]] for c in channels]) for name in ("incremental", "lower", "upper")
    )
    # Red is kept for what was caused.
    colour = {name: VIOLET if c == style.RED else c for name, c in style.colours(methods).items()}
    for method in methods:
        cells = {c: v for c, v, m in zip(data["channel"], data["compared"], data["method"]) if m == method}
        figure.add_bar(
            x=channels,
            y=[cells.get(c, np.nan) for c in channels],
            name=str(method),
            marker={"color": colour[method], "opacity": 0.7},
            hovertemplate=f"credited %{{y:,.0f}}{money}<extra>%{{x}}: %{{fullData.name}}</extra>",
        )
    figure.add_scatter(
        x=channels,
        y=middle,
        name="caused",
        mode="markers",
        marker={"color": style.RED, "size": 13, "symbol": "diamond"},
        error_y={**style.whiskers(middle, low, high), "color": style.RED, "thickness": 2.5, "width": 8},
        customdata=np.column_stack([low, high]),
        hovertemplate=f"caused %{{y:,.0f}}{money}"
        " (%{customdata[0]:,.0f} to %{customdata[1]:,.0f})<extra>%{x}</extra>",
    )
    return style.zero_line(figure.update_layout(barmode="group"), "h")


def heat(table: pa.Table, names: Sequence[str], titles: Sequence[str], value: str = "") -> go.Figure:
    """Draw a number over two axes of bins as a heat map.

    Args:
        table: Columns x, y (text or count, in order), the number drawn, and n (customers).
        names: The columns of x, y, the number and n.
        titles: Titles of x and y.
        value: Format of the number, as of d3 (`.0%`).
    """
    x, y, z, n = names
    data = style.columns(table, "heat map", (x, y, z, n))
    figure = style.figure(*titles)
    if not table.num_rows:
        return style.empty(figure)
    across, down = list(dict.fromkeys(data[x])), list(dict.fromkeys(data[y]))
    grid = np.full((len(down), len(across)), np.nan)
    size = np.zeros_like(grid)
    for i in range(table.num_rows):
        cell = down.index(data[y][i]), across.index(data[x][i])
        grid[cell], size[cell] = data[z][i], data[n][i]
    figure.add_heatmap(
        x=[str(v) for v in across],
        y=[str(v) for v in down],
        z=grid,
        customdata=size,
        colorscale="Viridis",
        colorbar={"tickformat": value, "thickness": 12},
        **({"zmin": 0.0, "zmax": 1.0} if value.endswith("%") else {}),  # shares, also where all are alike
        hovertemplate=f"%{{x}}, %{{y}}: %{{z:{value}}}<br>n = %{{customdata:,.0f}}<extra></extra>",
    )
    return figure.update_xaxes(type="category").update_yaxes(type="category")


def deciles(table: pa.Table, title: str, currency: str = "") -> go.Figure:
    """Draw forecast beside what came, by decile of the forecast.

    Args:
        table: Columns decile (1 = lowest), n, forecast, observed (same unit).
        title: What is forecast.
        currency: Its unit where it is money.
    """
    data = style.columns(table, "deciles", ("decile", "n", "forecast", "observed"))
    figure = style.figure("Decile of the forecast (1 = lowest)", style.unit(title, currency))
    if not table.num_rows:
        return style.empty(figure)
    for column, name, colour in (("forecast", "forecast", style.BLUE), ("observed", "came", style.GREEN)):
        figure.add_bar(
            x=data["decile"],
            y=data[column],
            name=name,
            marker={"color": colour},
            customdata=data["n"],
            hovertemplate=f"%{{y:,.4g}}{style.behind(currency)}"
            "<br>n = %{customdata:,}<extra>%{x}: %{fullData.name}</extra>",
        )
    return figure.update_xaxes(dtick=1).update_layout(barmode="group")


def bars(table: pa.Table, names: tuple[str, str, str], currency: str = "") -> go.Figure:
    """Draw a mean by group as horizontal bars, the first row on top.

    Args:
        table: The columns named.
        names: Columns of the group, the mean and the customers it rests on.
        currency: Unit of the mean where it is money.
    """
    label, value, n = names
    data = style.columns(table, "groups", names)
    figure = style.figure(style.unit("Mean per customer", currency), "")
    if not table.num_rows:
        return style.empty(figure)
    figure.add_bar(
        y=data[label][::-1],
        x=data[value][::-1],
        orientation="h",
        marker={"color": style.BLUE},
        customdata=data[n][::-1],
        hovertemplate=f"%{{y}}: %{{x:,.3g}}{style.behind(currency)}<br>n = %{{customdata:,}}<extra></extra>",
    )
    return figure.update_layout(height=max(200, 32 * table.num_rows + 80)).update_yaxes(type="category")
