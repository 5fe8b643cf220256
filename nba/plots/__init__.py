"""Result table in, figure out: interactive Plotly figures that read in light, dark and without colour vision.

Every function takes a table (Arrow) with the columns it names and returns a figure; nothing is shown and
nothing is computed beyond sums, shares and bounds of what is drawn. Channels keep one colour everywhere;
other names get one by a hash of the name. Text and grid come from the template, so that the app's theme
can replace it.
"""

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

# Okabe & Ito (2008), told apart under every common colour blindness; grey means "no contact".
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#8C8C8C",
    "#F0E442",
)
CHANNEL: Mapping[str, str] = MappingProxyType(
    {"email": BLUE, "sms": ORANGE, "push": GREEN, "call": PINK, "budget": RED, "none": GREY, "organic": SKY}
)
_FIRST = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
_WHEEL = (*_FIRST, "#7570B3", "#A6761D", YELLOW, "#66A61E", "#1B9E9E", "#B2475D")
MAX_TICKS = 16
_PATTERN = ("", "/", "\\", "x", ".", "+", "-", "|")
_MARK = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
_BAND = "rgba(0,114,178,0.18)"
_TEXT, _GRID = "#737884", "rgba(128,132,149,0.25)"
TEMPLATE = go.layout.Template(
    layout={
        "font": {"color": _TEXT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": _WHEEL,
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
    tiers = [[c for c in tier if c not in taken] for tier in (_FIRST, _WHEEL[len(_FIRST) :])]
    for name in sorted(n for n in distinct if n not in CHANNEL):
        free = next((tier for tier in tiers if tier), list(_WHEEL))
        out[name] = free.pop(zlib.crc32(name.encode()) % len(free))
    return {name: CHANNEL.get(name) or out[name] for name in distinct}


def calibration(table: pa.Table) -> go.Figure:
    """Draw observed against predicted chance by bin; on the diagonal the model may be taken at its word.

    Args:
        table: Columns bin, n (count), predicted, observed (probability 0-1).
    """
    data = _columns(table, "calibration", ("bin", "n", "predicted", "observed"))
    figure = _figure("Predicted chance", "Observed share")
    if not table.num_rows:
        return _empty(figure)
    top = float(np.nanmax([*data["predicted"], *data["observed"], 0.0])) * 1.08 or 1.0
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", name="perfect", line=_dashed(), hoverinfo="skip")
    size = 8 + 18 * np.sqrt(data["n"] / max(float(np.max(data["n"])), 1.0))
    figure.add_scatter(
        x=data["predicted"],
        y=data["observed"],
        mode="lines+markers",
        name="model",
        marker={"size": size, "color": BLUE},
        line={"color": BLUE, "width": 1},
        customdata=data["n"],
        hovertemplate="predicted %{x:.2%}<br>observed %{y:.2%}<br>n = %{customdata:,}<extra></extra>",
    )
    figure.update_xaxes(tickformat=".1%", range=[0, top])
    return figure.update_yaxes(tickformat=".1%", range=[0, top])


def qini(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw the gain caused by treating the best share first, against treating at random.

    Args:
        table: Columns share (0-1, ordered), qini and random (same unit: responses, or money).
        currency: Unit of the gain where it is money.
    """
    data = _columns(table, "qini", ("share", "qini", "random"))
    figure = _figure("Share of customers contacted, best first", _unit("Gain over no contact", currency))
    if not table.num_rows:
        return _empty(figure)
    hover = "%{x:.0%} contacted<br>gain %{y:,.4g}<extra>%{fullData.name}</extra>"
    figure.add_scatter(
        x=data["share"], y=data["random"], mode="lines", name="random", line=_dashed(), hovertemplate=hover
    )
    figure.add_scatter(
        x=data["share"],
        y=data["qini"],
        mode="lines",
        name="model",
        line={"color": BLUE, "width": 3},
        fill="tonexty",
        fillcolor=_BAND,
        hovertemplate=hover,
    )
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])


def importance(table: pa.Table, top: int = 20) -> go.Figure:
    """Draw the features that matter most to the model, largest on top.

    Args:
        table: Columns feature, importance (any unit, larger matters more).
        top: How many to show.
    """
    data = _columns(table, "importance", ("feature", "importance"))
    figure = _figure("Importance", "")
    if not table.num_rows:
        return _empty(figure)
    best = np.argsort(-data["importance"], kind="stable")[:top][::-1]
    names = [str(data["feature"][i]).removeprefix("f_").replace("_", " ") for i in best]
    figure.add_bar(
        x=data["importance"][best],
        y=names,
        orientation="h",
        marker={"color": BLUE},
        hovertemplate="%{y}: %{x:,.4g}<extra></extra>",
    )
    return figure.update_layout(height=max(260, 26 * len(best) + 90))


def uplift_deciles(table: pa.Table) -> go.Figure:
    """Draw measured uplift by decile of predicted uplift, with intervals, beside the prediction.

    Args:
        table: Columns decile (1 = highest predicted), n, predicted, observed, lower, upper (change of the
            chance of a response).
    """
    data = _columns(table, "uplift_deciles", ("decile", "n", "predicted", "observed", "lower", "upper"))
    figure = _figure("Decile of predicted uplift (1 = highest)", "Change of the chance to respond")
    if not table.num_rows:
        return _empty(figure)
    figure.add_bar(
        x=data["decile"],
        y=data["observed"],
        name="measured",
        marker={"color": BLUE, "opacity": 0.75},
        error_y=_whiskers(data["observed"], data["lower"], data["upper"]),
        customdata=np.column_stack([data["n"], data["lower"], data["upper"]]),
        hovertemplate="measured %{y:.2%} (%{customdata[1]:.2%} to %{customdata[2]:.2%})"
        "<br>n = %{customdata[0]:,.0f}<extra>decile %{x}</extra>",
    )
    figure.add_scatter(
        x=data["decile"],
        y=data["predicted"],
        name="predicted",
        mode="markers",
        marker={"color": ORANGE, "size": 11, "symbol": "diamond"},
        hovertemplate="predicted %{y:.2%}<extra>decile %{x}</extra>",
    )
    figure.update_xaxes(dtick=1)
    return _zero_line(figure.update_yaxes(tickformat=".1%"), "h")


def effects(table: pa.Table, currency: str = "", metric: str | None = None) -> go.Figure:
    """Draw each arm's effect against its control with its interval; left of zero is a loss.

    Args:
        table: Columns of the `effects` table; rows whose effect is unknown are left out.
        currency: Unit of money metrics.
        metric: Draw this metric only; all rows if left out (they must share a unit then).
    """
    names = ("metric", "arm", "segment", "control", "n", "n_control", "effect", "lower", "upper", "level")
    data = _columns(table, "effects", names)
    keep = ~np.isnan(data["effect"])
    if metric is not None:
        keep &= data["metric"] == metric
    figure = _figure(_unit("Effect per customer against the control", currency), "")
    if not keep.any():
        return _empty(figure)
    whole = all(data["segment"][keep] == "all")
    for i in np.flatnonzero(keep)[::-1]:
        name = data["arm"][i] if whole else f"{data['arm'][i]} · {data['segment'][i]}"
        middle, low, high = (data[part][i : i + 1] for part in ("effect", "lower", "upper"))
        colour = _sign_colour(low[0], high[0])
        figure.add_scatter(
            x=middle,
            y=[name],
            mode="markers",
            marker={"color": colour, "size": 13},
            error_x={**_whiskers(middle, low, high), "thickness": 2.5, "width": 8, "color": colour},
            customdata=[
                [low[0], high[0], data["n"][i], data["n_control"][i], data["control"][i], data["level"][i]]
            ],
            hovertemplate="%{x:+.4g} (%{customdata[0]:+.4g} to %{customdata[1]:+.4g} at %{customdata[5]:.0%})"
            "<br>n = %{customdata[2]:,} against %{customdata[3]:,} in %{customdata[4]}<extra>%{y}</extra>",
        )
    figure.update_layout(height=56 * int(keep.sum()) + 120, showlegend=False)
    figure.update_xaxes(rangemode="tozero")
    return _zero_line(figure, "v")


def mix(table: pa.Table, by: str = "channel", order: Sequence[str] = ()) -> go.Figure:
    """Draw how many contacts each batch decided, by channel or action.

    Args:
        table: Columns decided_at, n (decisions) and the column named by `by`; `none` is left out.
        by: channel or action_id.
        order: Names in the order of the legend; those not named follow by size.
    """
    data = _columns(table, "mix", ("decided_at", "n", by))
    figure = _figure("Batch", "Contacts decided")
    total: dict[str, float] = {}
    for name, n in zip(data[by], data["n"]):
        total[name] = total.get(name, 0.0) + n
    total.pop("none", None)
    if not sum(total.values()):
        return _empty(figure)
    listed = [n for n in order if n in total]
    names = listed + sorted(set(total) - set(listed), key=lambda name: -total[name])
    colour = colours(list(order) + names)
    moments = sorted(set(data["decided_at"]))
    for i, name in enumerate(names):
        rows = data[by] == name
        counts = [float(data["n"][rows & (data["decided_at"] == at)].sum()) for at in moments]
        figure.add_bar(
            x=moments,
            y=counts,
            name=name,
            marker={"color": colour[name], "pattern": {"shape": _PATTERN[i // 4 % len(_PATTERN)]}},
            hovertemplate="%{y:,.0f}<extra>%{fullData.name}</extra>",
        )
    return _time_axis(figure, moments).update_layout(barmode="stack", hovermode="x unified")


def value_over_batches(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw each arm's value per customer against the holdout, batch by batch, with intervals.

    Args:
        table: Columns decided_at, arm, effect, lower, upper (money per customer), n, is_matured (whether
            every reward window of the batch has closed); batches that are not are left out.
        currency: Unit of the value.
    """
    names = ("decided_at", "arm", "effect", "lower", "upper", "n", "is_matured")
    data = _columns(table, "value_over_batches", names)
    figure = _figure("Batch", _unit("Value per customer against the holdout", currency))
    keep = ~np.isnan(data["effect"]) & data["is_matured"].astype(bool)
    if not keep.any():
        return _empty(figure)
    arms = sorted(set(data["arm"][keep]))
    colour = colours(arms)
    spacing = _spacing(data["decided_at"][keep])
    for i, arm in enumerate(arms):
        rows = np.flatnonzero(keep & (data["arm"] == arm))
        rows = rows[np.argsort(data["decided_at"][rows])]
        shift = np.timedelta64(int((i - (len(arms) - 1) / 2) * spacing * 0.06 * 1e6), "us")
        low, high = data["lower"][rows], data["upper"][rows]
        figure.add_scatter(
            x=np.asarray(data["decided_at"][rows], dtype="datetime64[us]") + shift,
            y=data["effect"][rows],
            name=arm,
            mode="lines+markers",
            line={"color": colour[arm], "width": 1.5},
            marker={"color": colour[arm], "size": 9, "symbol": _MARK[i % len(_MARK)]},
            error_y=_whiskers(data["effect"][rows], low, high),
            customdata=np.column_stack([low, high, data["n"][rows]]),
            hovertemplate="%{x|%d %b %Y}: %{y:+.3g} (%{customdata[0]:+.3g} to %{customdata[1]:+.3g})"
            "<br>n = %{customdata[2]:,}<extra>%{fullData.name}</extra>",
        )
    return _zero_line(_time_axis(figure, np.unique(data["decided_at"][keep])), "h")


def credits(table: pa.Table, currency: str = "", by: str = "channel") -> go.Figure:  # noqa: A001
    """Draw the margin credited to each channel, one group of bars per attribution method.

    Args:
        table: Columns method, credit (money) and the column named by `by`.
        currency: Unit of the credit.
        by: channel or treatment_id.
    """
    data = _columns(table, "credits", ("method", "credit", by))
    figure = _figure("", _unit("Credited margin", currency))
    if not table.num_rows:
        return _empty(figure)
    total = {
        (m, n): float(data["credit"][(data["method"] == m) & (data[by] == n)].sum())
        for m in dict.fromkeys(data["method"])
        for n in dict.fromkeys(data[by])
    }
    names = sorted({n for _, n in total}, key=lambda n: -sum(v for (_, m), v in total.items() if m == n))
    colour = colours(names)
    methods = list(dict.fromkeys(data["method"]))
    for name in names:
        figure.add_bar(
            x=methods,
            y=[total[method, name] for method in methods],
            name=str(name),
            marker={"color": colour[name]},
            hovertemplate="%{y:,.0f}<extra>%{x}: %{fullData.name}</extra>",
        )
    return figure.update_layout(barmode="group")


def clv(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw how many customers have which lifetime value.

    Args:
        table: Columns lower, upper (money, bounds of the bin), n (customers), total (money in the bin).
        currency: Unit of the value.
    """
    data = _columns(table, "clv", ("lower", "upper", "n", "total"))
    figure = _figure(_unit("Lifetime value", currency), "Customers")
    if not table.num_rows:
        return _empty(figure)
    names = [_range(a, b) for a, b in zip(data["lower"], data["upper"])]
    share = data["total"] / max(float(data["total"].sum()), 1e-12)
    figure.add_bar(
        x=names,
        y=data["n"],
        marker={"color": BLUE},
        customdata=np.column_stack([data["total"], share]),
        hovertemplate="%{y:,} customers<br>worth %{customdata[0]:,.0f} together, %{customdata[1]:.0%} of all"
        "<extra>%{x}</extra>",
    )
    return figure.update_layout(bargap=0.08).update_xaxes(type="category")


def clv_origins(table: pa.Table) -> go.Figure:
    """Draw how well the models of lifetime value forecast from earlier moments (rolling origins).

    Args:
        table: Columns of the `clv_scores` table: origin_at, part, ratio, ngini, decile_mape.
    """
    data = _columns(table, "clv_scores", ("origin_at", "part", "ratio", "ngini", "decile_mape"))
    figure = _figure("Moment of the forecast", "")
    if not table.num_rows:
        return _empty(figure)
    names = {
        "ratio": "total forecast over observed",
        "ngini": "normalised Gini",
        "decile_mape": "decile error",
    }
    for j, part in enumerate(dict.fromkeys(data["part"])):
        rows = np.flatnonzero(data["part"] == part)
        rows = rows[np.argsort(data["origin_at"][rows])]
        for i, (name, said) in enumerate(names.items()):
            figure.add_scatter(
                x=data["origin_at"][rows],
                y=data[name][rows],
                name=f"{part}: {said}",
                mode="lines+markers",
                line={"color": _FIRST[i], "dash": ("solid", "dot")[j % 2]},
                marker={"symbol": _MARK[i], "size": 9},
                hovertemplate="%{y:.3f}<extra>%{fullData.name}</extra>",
            )
    return _time_axis(figure, np.unique(data["origin_at"])).update_yaxes(rangemode="tozero")


def clv_deciles(table: pa.Table, part: str = "orders", currency: str = "") -> go.Figure:
    """Draw the calibration of lifetime value on periods not seen: observed against forecast, by tenths.

    Args:
        table: Columns of the `clv_deciles` table: origin_at, part, decile, forecast, observed, n.
        part: orders or value.
        currency: Unit of values.
    """
    data = _columns(table, "clv_deciles", ("origin_at", "part", "decile", "forecast", "observed", "n"))
    unit = "orders" if part == "orders" else currency
    figure = _figure(_unit("Forecast", unit), _unit("Observed", unit))
    rows = data["part"] == part
    if not rows.any():
        return _empty(figure)
    top = float(max(data["forecast"][rows].max(), data["observed"][rows].max()))
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line=_dashed(), showlegend=False, hoverinfo="skip"
    )
    for i, origin in enumerate(np.unique(data["origin_at"][rows])):
        mine = np.flatnonzero(rows & (data["origin_at"] == origin))
        figure.add_scatter(
            x=data["forecast"][mine],
            y=data["observed"][mine],
            name=str(origin)[:10],
            mode="markers",
            marker={"color": _WHEEL[i % len(_WHEEL)], "symbol": _MARK[i % len(_MARK)], "size": 10},
            customdata=np.column_stack([data["decile"][mine], data["n"][mine]]),
            hovertemplate="%{y:,.3g} of %{x:,.3g} forecast<br>%{customdata[1]:,} customers"
            "<extra>tenth %{customdata[0]}</extra>",
        )
    return figure


def clv_grid(table: pa.Table, what: str = "p_alive") -> go.Figure:
    """Draw customers by frequency and time since the last purchase as a heat map.

    Args:
        table: Columns of the `clv_grid` table.
        what: p_alive, expected_orders, clv or n.
    """
    data = _columns(table, "clv_grid", ("repeats", "quiet", "repeats_from", "quiet_from", "n", what))
    figure = _figure("Days since the last purchase", "Purchases after the first")
    if not table.num_rows:
        return _empty(figure)
    across, down = (
        [data[name][data[f"{name}_from"] == begin][0] for begin in np.unique(data[f"{name}_from"])]
        for name in ("quiet", "repeats")
    )
    value, count = np.full((len(down), len(across)), np.nan), np.zeros((len(down), len(across)))
    for y, x, v, n in zip(data["repeats"], data["quiet"], data[what], data["n"]):
        value[down.index(y), across.index(x)], count[down.index(y), across.index(x)] = v, n
    figure.add_heatmap(
        x=across,
        y=down,
        z=value,
        customdata=count,
        colorscale="Cividis",
        colorbar={"title": {"text": what}},
        hovertemplate="%{y} repeats, quiet %{x} days<br>%{z:,.3g}"
        "<br>%{customdata:,} customers<extra></extra>",
    )
    return figure.update_xaxes(type="category").update_yaxes(type="category")


def prices(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw the shadow price of each limit over the batches: what one more unit of it would be worth.

    Args:
        table: Columns of the `batches` table (decided_at, arm, limit, available, used, price).
        currency: Unit of the price.
    """
    data = _columns(table, "batches", ("decided_at", "arm", "limit", "available", "used", "price"))
    figure = _figure("Batch", _unit("Worth of one more unit", currency))
    if not table.num_rows:
        return _empty(figure)
    names = sorted(set(data["limit"]))
    arms = sorted(set(data["arm"]))
    colour = colours(names)
    for i, name in enumerate(names):
        for j, arm in enumerate(arms):
            rows = np.flatnonzero((data["limit"] == name) & (data["arm"] == arm))
            if not len(rows):
                continue
            rows = rows[np.argsort(data["decided_at"][rows])]
            figure.add_scatter(
                x=data["decided_at"][rows],
                y=data["price"][rows],
                name=name if len(arms) == 1 else f"{name} · {arm}",
                mode="lines+markers",
                line={"color": colour[name], "dash": ("solid", "dot", "dash", "dashdot")[j % 4]},
                marker={"symbol": _MARK[i % len(_MARK)], "size": 8},
                customdata=np.column_stack([data["used"][rows], data["available"][rows]]),
                hovertemplate="%{y:,.3g} per unit; %{customdata[0]:,.0f} of %{customdata[1]:,.0f} used"
                "<extra>%{fullData.name}</extra>",
            )
    return _time_axis(figure, np.unique(data["decided_at"])).update_yaxes(rangemode="tozero")


def policy_values(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw what each policy would have earned per decision by off-policy estimate, with intervals.

    Args:
        table: Columns of the `policy_values` table; rows whose value is unknown are left out.
        currency: Unit of the value.
    """
    names = ("policy_id", "estimator", "value", "lower", "upper", "ess", "n")
    data = _columns(table, "policy_values", names)
    figure = _figure(_unit("Estimated reward per decision", currency), "")
    keep = ~np.isnan(data["value"])
    if not keep.any():
        return _empty(figure)
    labels = np.array([f"{p} · {e}" for p, e in zip(data["policy_id"], data["estimator"])], dtype=object)
    order = list(dict.fromkeys(labels[keep]))[::-1]
    for i, estimator in enumerate(dict.fromkeys(data["estimator"][keep])):
        rows = np.flatnonzero(keep & (data["estimator"] == estimator))
        colour = _WHEEL[i % len(_WHEEL)]
        figure.add_scatter(
            x=data["value"][rows],
            y=labels[rows],
            name=str(estimator),
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": _MARK[i % len(_MARK)]},
            error_x={
                **_whiskers(data["value"][rows], data["lower"][rows], data["upper"][rows]),
                "color": colour,
            },
            customdata=np.column_stack([data["ess"][rows], data["n"][rows]]),
            hovertemplate="%{x:,.4g}<br>effective %{customdata[0]:,.0f} of %{customdata[1]:,.0f} decisions"
            "<extra>%{y}</extra>",
        )
    figure.update_layout(height=32 * len(order) + 130, showlegend=False)
    return figure.update_yaxes(categoryorder="array", categoryarray=order)


def _columns(table: pa.Table, what: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
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


def _figure(x: str, y: str) -> go.Figure:
    figure = go.Figure()
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}
    figure.update_layout(template=TEMPLATE, margin={"l": 10, "r": 20, "t": 40, "b": 10}, legend=legend)
    return figure.update_xaxes(title=x).update_yaxes(title=y)


def _empty(figure: go.Figure) -> go.Figure:
    figure.update_layout(height=160).update_xaxes(visible=False).update_yaxes(visible=False)
    return figure.add_annotation(text="Nothing to show yet", showarrow=False, xref="paper", yref="paper")


def _unit(text: str, currency: str) -> str:
    return f"{text} ({currency})" if currency else text


def _dashed() -> dict[str, Any]:
    return {"color": GREY, "dash": "dash", "width": 1.5}


def _whiskers(middle: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": upper - middle,
        "arrayminus": middle - lower,
        "thickness": 1.5,
        "width": 4,
    }


def _time_axis(figure: go.Figure, moments: Sequence[Any] | NDArray[Any]) -> go.Figure:
    # A tick for each batch while they fit; its day, not the hour.
    ticks = {"tickvals": list(moments)} if len(moments) <= MAX_TICKS else {}
    return figure.update_xaxes(type="date", tickformat="%-d %b\n%Y", hoverformat="%-d %b %Y", **ticks)


def _zero_line(figure: go.Figure, way: str) -> go.Figure:
    line = {"line": {"color": GREY, "width": 1.5, "dash": "dash"}}
    return figure.add_hline(y=0, **line) if way == "h" else figure.add_vline(x=0, **line)


def _sign_colour(lower: float, upper: float) -> str:
    return BLUE if lower > 0 else RED if upper < 0 else GREY


def _spacing(moments: NDArray[Any]) -> float:
    # Seconds between neighbouring batches, to set the arms' intervals beside each other.
    distinct = np.unique(np.asarray(moments, dtype="datetime64[us]").astype(np.int64))
    return float(np.min(np.diff(distinct)) / 1e6) if len(distinct) > 1 else 86_400.0


def _range(lower: float, upper: float) -> str:
    if np.isinf(upper):
        return f"{lower:,.0f} and more"
    return f"{lower:,.0f} to {upper:,.0f}"
