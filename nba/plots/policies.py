"""Figures of the policy: who is contacted, what removed candidates, how they rank, one customer's time."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from nba.plots import style


def segments(
    table: pa.Table, by: str = "channel", order: Sequence[str] = (), *, sort: bool = True
) -> go.Figure:
    """Draw which share of each segment's decisions went to which channel or action; the rest is no contact.

    Args:
        table: Columns segment, n and the column named by `by`, of one attribute.
        by: channel or action_id.
        order: All names that any figure may draw: with it a name has one colour in all of them.
        sort: Put the segments contacted most on top; else the first on top.
    """
    data = style.columns(table, "segments", ("segment", "n", by))
    figure = style.figure("Share of decisions", "")
    if not table.num_rows:
        return style.empty(figure)
    whole: dict[str, float] = {}
    cell: dict[tuple[str, str], float] = {}
    for segment, name, n in zip(data["segment"], data[by], data["n"]):
        whole[segment] = whole.get(segment, 0.0) + n
        cell[segment, name] = cell.get((segment, name), 0.0) + n
    contacted = {s: 1 - cell.get((s, "none"), 0.0) / whole[s] for s in whole}
    rows = sorted(whole, key=lambda s: contacted[s]) if sort else list(whole)[::-1]
    names = [n for n in sorted({n for _, n in cell}) if n != "none"]
    colour = style.colours([*order, *names])
    for name in names:
        figure.add_bar(
            y=rows,
            x=[cell.get((s, name), 0.0) / whole[s] for s in rows],
            name=str(name),
            orientation="h",
            marker={"color": colour[name]},
            customdata=[[cell.get((s, name), 0.0), whole[s]] for s in rows],
            hovertemplate="%{x:.1%}: %{customdata[0]:,.0f} of %{customdata[1]:,.0f} decisions"
            "<extra>%{y}: %{fullData.name}</extra>",
        )
    figure.update_layout(barmode="stack", height=max(240, 34 * len(rows) + 110))
    return figure.update_xaxes(tickformat=".0%", rangemode="tozero").update_yaxes(type="category")


def removed(table: pa.Table, by: str = "treatment_id") -> go.Figure:
    """Draw for each treatment what became of its candidates: the rule that removed them, or eligible.

    Args:
        table: Columns reason (empty is eligible), n and the column named by `by`.
        by: Usually treatment_id.
    """
    data = style.columns(table, "removed", (by, "reason", "n"))
    figure = style.figure("Customers", "")
    if not table.num_rows:
        return style.empty(figure)
    order = sorted(set(data[by]), reverse=True)
    total: dict[str, float] = {}
    for reason, n in zip(data["reason"], data["n"]):
        total[reason] = total.get(reason, 0.0) + n
    reasons = ["", *sorted((r for r in total if r), key=lambda r: -total[r])]
    colour = style.colours([r for r in reasons if r])
    for i, reason in enumerate(reasons):
        rows = data["reason"] == reason
        figure.add_bar(
            y=order,
            x=[float(data["n"][rows & (data[by] == name)].sum()) for name in order],
            name=str(reason) or "eligible",
            orientation="h",
            marker={
                "color": colour[reason] if reason else "#2F6B3C",
                "pattern": {"shape": "" if i < 5 else "/"},
                "opacity": 0.9 if reason else 1.0,
            },
            hovertemplate="%{x:,.0f}<extra>%{y}: %{fullData.name}</extra>",
        )
    return figure.update_layout(barmode="stack", height=max(260, 30 * len(order) + 120))


def ranking(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw each treatment's value and what the limits take of it: what is left is its priority.

    Args:
        table: Columns treatment_id, value, price, priority (money; unknown where nobody was eligible).
        currency: Unit of the money.
    """
    data = style.columns(table, "ranking", ("treatment_id", "value", "price", "priority"))
    figure = style.figure(style.unit("Mean per customer who could be given it", currency), "")
    known = ~np.isnan(data["value"])
    if not known.any():
        return style.empty(figure)
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(data["priority"][rows], kind="stable")]
    names = data["treatment_id"][rows]
    figure.add_scatter(
        x=np.column_stack([data["priority"][rows], data["value"][rows], np.full(len(rows), np.nan)]).ravel(),
        y=np.repeat(names, 3),
        mode="lines",
        line={"color": style.GREY, "width": 3},
        showlegend=False,
        hoverinfo="skip",
    )
    parts: Mapping[str, tuple[str, str]] = {
        "value": (style.BLUE, "circle"),
        "priority": (style.ORANGE, "diamond"),
    }
    for column, (colour, mark) in parts.items():
        figure.add_scatter(
            x=data[column][rows],
            y=names,
            name=column,
            mode="markers",
            marker={"color": colour, "symbol": mark, "size": 11},
            customdata=data["price"][rows],
            hovertemplate="%{x:+.3g}; price of limits %{customdata:.3g}<extra>%{y}: %{fullData.name}</extra>",
        )
    figure.update_layout(height=max(260, 30 * len(rows) + 120))
    return style.zero_line(figure.update_yaxes(type="category"), "v")


def candidates(table: pa.Table, currency: str = "", chosen: str = "") -> go.Figure:
    """Draw one decision's candidates: value and its uncertainty, the size showing the chance of being chosen.

    Args:
        table: Columns treatment_id, is_eligible, p_action, mean, se, price of the `choices` of a decision,
            and channel where it is known, which colours them.
        currency: Unit of the money.
        chosen: The treatment that was given; it is ringed.
    """
    names = ["treatment_id", "is_eligible", "p_action", "mean", "se", "price"]
    if "channel" not in table.column_names:
        table = table.append_column("channel", pa.array([""] * table.num_rows, pa.string()))
    data = style.columns(table, "choices", [*names, "channel"])
    figure = style.figure(style.unit("Expected value less the price of limits", currency), "")
    known = data["is_eligible"].astype(bool) & ~np.isnan(data["mean"])
    if not known.any():
        return style.empty(figure)
    rows = np.flatnonzero(known)
    worth = data["mean"] - data["price"]
    rows = rows[np.argsort(worth[rows], kind="stable")]
    channels = list(dict.fromkeys(data["channel"][rows[::-1]]))
    colour = style.colours(name for name in channels if name)
    for number, channel in enumerate(channels):
        own = rows[data["channel"][rows] == channel]
        half = np.nan_to_num(data["se"][own]) * 1.959964
        ringed = np.where(data["treatment_id"][own] == chosen, 3, 0)
        figure.add_scatter(
            x=worth[own],
            y=data["treatment_id"][own],
            mode="markers",
            name=str(channel),
            marker={
                "size": 9 + 22 * np.sqrt(data["p_action"][own]),
                "color": colour.get(channel, style.BLUE),
                "symbol": style.MARK[number % len(style.MARK)],
                "line": {"width": ringed, "color": style.RING},
            },
            error_x=style.whiskers(worth[own], worth[own] - half, worth[own] + half),
            customdata=data["p_action"][own],
            hovertemplate="%{x:+.3g}; chosen with chance %{customdata:.1%}<extra>%{y}</extra>",
        )  # fmt: skip
    order = [str(name) for name in data["treatment_id"][rows]]
    figure.update_layout(height=max(220, 34 * len(rows) + 90), showlegend=len(channels) > 1)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=order)
    return style.zero_line(figure, "v")


def timeline(table: pa.Table, lanes: Sequence[str]) -> go.Figure:
    """Draw what one customer did and was sent, over time, one lane for each kind.

    Args:
        table: Columns at, lane, kind, channel, text.
        lanes: Lanes from top to bottom.
    """
    data = style.columns(table, "timeline", ("at", "lane", "kind", "channel", "text"))
    figure = style.figure("", "")
    if not table.num_rows:
        return style.empty(figure)
    channels = [name for name in dict.fromkeys(data["channel"]) if name]
    colour = style.colours(channels)
    kinds = list(dict.fromkeys(data["kind"]))
    for kind in kinds:
        rows = data["kind"] == kind
        figure.add_scatter(
            x=data["at"][rows],
            y=data["lane"][rows],
            mode="markers",
            name=str(kind),
            marker={
                "size": 11,
                "symbol": style.MARK[kinds.index(kind) % len(style.MARK)],
                "color": [colour.get(name, style.GREY) for name in data["channel"][rows]],
            },
            customdata=data["text"][rows],
            hovertemplate="%{x|%d %b %Y, %H:%M}<br>%{customdata}<extra>%{fullData.name}</extra>",
        )
    shown = [lane for lane in lanes if lane in set(data["lane"])]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=shown[::-1])
    figure.update_layout(height=70 * len(shown) + 110)
    return figure.update_xaxes(type="date", tickformat="%-d %b\n%Y")


def ablations(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw what each part of the policy is worth: the whole against it without that part, with intervals.

    A mark is filled and coloured where its interval leaves zero and nothing speaks against it; it is a grey
    cross where the log fails a check, and a grey ring where the interval crosses zero.

    Args:
        table: Columns name, method, value, lower, upper (money per decision; unknown rows are left out), and
            doubt: what speaks against a row, empty or null where nothing does.
        currency: Unit of the money.
    """
    data = style.columns(table, "ablations", ("name", "method", "value", "lower", "upper", "doubt"))
    figure = style.figure(style.unit("Difference per decision", currency), "")
    known = ~np.isnan(data["value"])
    if not known.any():
        return style.empty(figure)
    for i in np.flatnonzero(known)[::-1]:
        middle, low, high = (data[part][i : i + 1] for part in ("value", "lower", "upper"))
        doubt = str(data["doubt"][i] or "")
        proved = style.BLUE if low[0] > 0 else style.RED if high[0] < 0 else ""
        colour = style.GREY if doubt or not proved else proved
        ring = {"symbol": "x-thin-open" if doubt else "circle-open", "line": {"width": 2.5, "color": colour}}
        verdict = "doubtful" if doubt else "proved" if proved else "not proved"
        figure.add_scatter(
            x=middle,
            y=[f"{data['name'][i]}<br>{data['method'][i]}"],
            mode="markers",
            marker={"color": colour, "size": 13, **(ring if doubt or not proved else {})},
            error_x={
                **style.whiskers(middle, low, high),
                **({"thickness": 1.5, "width": 4} if doubt else {"thickness": 2.5, "width": 8}),
                "color": colour,
            },
            customdata=[[low[0], high[0]]],
            hovertemplate="%{x:+.3g} (%{customdata[0]:+.3g} to %{customdata[1]:+.3g})<br>"
            + f"{verdict}<extra>%{{y}}</extra>",
        )
    figure.update_layout(height=52 * int(known.sum()) + 110, showlegend=False)
    return style.zero_line(figure, "v")


def shares(table: pa.Table, names: tuple[str, str], x: str) -> go.Figure:
    """Draw a part of a whole for each row as horizontal bars.

    Args:
        table: The columns named: a text and a fraction.
        names: The columns.
        x: Title of the axis.
    """
    label, value = names
    data = style.columns(table, "shares", names)
    figure = style.figure(x, "")
    if not table.num_rows:
        return style.empty(figure)
    colour = style.colours([str(name) for name in data[label]])
    figure.add_bar(
        y=data[label][::-1],
        x=data[value][::-1],
        orientation="h",
        marker={"color": [colour[name] for name in data[label]][::-1]},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_layout(height=max(180, 34 * table.num_rows + 80))
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])


def nothing(table: pa.Table) -> go.Figure:
    """Draw how many customers of each segment have nothing worth offering, in the order given.

    Args:
        table: Columns segment, n, n_nothing of the `value_finder` table.
    """
    data = style.columns(table, "value_finder", ("segment", "n", "n_nothing"))
    figure = style.figure("Customers", "")
    if not table.num_rows:
        return style.empty(figure)
    names = [str(name) for name in data["segment"][::-1]]
    parts: Mapping[str, tuple[str, str]] = {
        "nothing worth offering": (style.ORANGE, "/"), "something worth offering": (style.BLUE, "")
    }  # fmt: skip
    values = (data["n_nothing"][::-1], (data["n"] - data["n_nothing"])[::-1])
    for (name, (colour, shape)), value in zip(parts.items(), values):
        figure.add_bar(
            y=names,
            x=value,
            name=name,
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape}},
            hovertemplate="%{x:,.0f}<extra>%{y}: %{fullData.name}</extra>",
        )
    # One condition to a line, so that names leave room for the bars.
    figure.update_yaxes(tickvals=names, ticktext=[name.replace(", ", ",<br>") for name in names])
    return figure.update_layout(barmode="stack", height=max(240, 56 * len(names) + 120))
