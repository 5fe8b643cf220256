"""Result table in, figure out: interactive Plotly figures that read in light, dark and without colour vision.

Every function takes a table (Arrow) with the columns it names and returns a figure; nothing is shown and
nothing is computed beyond sums, shares and bounds of what is drawn. Channels keep one colour everywhere;
other names get one by a hash of the name. Text and grid come from the template, so that the app's theme
can replace it.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa

from nba.plots import style


def calibration(table: pa.Table) -> go.Figure:
    """Draw observed against predicted chance by bin; on the diagonal the model may be taken at its word.

    Args:
        table: Columns bin, n (count), predicted, observed (probability 0-1).
    """
    data = style.columns(table, "calibration", ("bin", "n", "predicted", "observed"))
    figure = style.figure("Predicted chance", "Observed share")
    if not table.num_rows:
        return style.empty(figure)
    top = float(np.nanmax([*data["predicted"], *data["observed"], 0.0])) * 1.08 or 1.0
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", name="perfect", line=style.dashed(), hoverinfo="skip"
    )
    size = 8 + 18 * np.sqrt(data["n"] / max(float(np.max(data["n"])), 1.0))
    figure.add_scatter(
        x=data["predicted"],
        y=data["observed"],
        mode="lines+markers",
        name="model",
        marker={"size": size, "color": style.BLUE},
        line={"color": style.BLUE, "width": 1},
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
    data = style.columns(table, "qini", ("share", "qini", "random"))
    figure = style.figure(
        "Share of customers contacted, best first", style.unit("Gain over no contact", currency)
    )
    if not table.num_rows:
        return style.empty(figure)
    hover = "%{x:.0%} contacted<br>gain %{y:,.4g}<extra>%{fullData.name}</extra>"
    figure.add_scatter(
        x=data["share"],
        y=data["random"],
        mode="lines",
        name="random",
        line=style.dashed(),
        hovertemplate=hover,
    )
    figure.add_scatter(
        x=data["share"],
        y=data["qini"],
        mode="lines",
        name="model",
        line={"color": style.BLUE, "width": 3},
        fill="tonexty",
        fillcolor=style.BAND,
        hovertemplate=hover,
    )
    return figure.update_xaxes(tickformat=".0%", range=[0, 1])


def importance(table: pa.Table, top: int = 20) -> go.Figure:
    """Draw the features that matter most to the model, largest on top.

    Args:
        table: Columns feature, importance (any unit, larger matters more).
        top: How many to show.
    """
    data = style.columns(table, "importance", ("feature", "importance"))
    figure = style.figure("Mean absolute SHAP value", "")
    if not table.num_rows:
        return style.empty(figure)
    best = np.argsort(-data["importance"], kind="stable")[:top][::-1]
    names = [str(data["feature"][i]).removeprefix("f_").replace("_", " ") for i in best]
    figure.add_bar(
        x=data["importance"][best],
        y=names,
        orientation="h",
        marker={"color": style.BLUE},
        hovertemplate="%{y}: %{x:,.4g}<extra></extra>",
    )
    return figure.update_layout(height=max(260, 26 * len(best) + 90))


def uplift_deciles(table: pa.Table) -> go.Figure:
    """Draw measured uplift by decile of predicted uplift, with intervals, beside the prediction.

    Args:
        table: Columns decile (1 = highest predicted), n, predicted, observed, lower, upper (change of the
            chance of a response).
    """
    data = style.columns(table, "uplift_deciles", ("decile", "n", "predicted", "observed", "lower", "upper"))
    figure = style.figure("Decile of predicted uplift (1 = highest)", "Change of the chance to respond")
    if not table.num_rows:
        return style.empty(figure)
    figure.add_bar(
        x=data["decile"],
        y=data["observed"],
        name="measured",
        marker={"color": style.BLUE, "opacity": 0.5},
        # Bars would have theirs in a grey too dark on dark.
        error_y={
            **style.whiskers(data["observed"], data["lower"], data["upper"]),
            "color": style.GREY,
        },
        customdata=np.column_stack([data["n"], data["lower"], data["upper"]]),
        hovertemplate="measured %{y:.2%} (%{customdata[1]:.2%} to %{customdata[2]:.2%})"
        "<br>n = %{customdata[0]:,.0f}<extra>decile %{x}</extra>",
    )
    figure.add_scatter(
        x=data["decile"],
        y=data["predicted"],
        name="predicted",
        mode="markers",
        marker={"color": style.ORANGE, "size": 11, "symbol": "diamond"},
        hovertemplate="predicted %{y:.2%}<extra>decile %{x}</extra>",
    )
    figure.update_xaxes(dtick=1)
    return style.zero_line(figure.update_yaxes(tickformat=".1%"), "h")


def effects(
    table: pa.Table,
    currency: str = "",
    metric: str | None = None,
    order: Sequence[str] = (),
    *,
    per_customer: bool = True,
) -> go.Figure:
    """Draw each arm's effect against its control with its interval; left of zero is a loss.

    Args:
        table: Columns of the `effects` table; rows whose effect is unknown are left out. A point is filled
            where its interval leaves zero; a segment's, where its `p_corrected` is below 1 - `level`.
        currency: Unit of money metrics; "%" for metrics that are fractions.
        metric: Draw this metric only; all rows if left out (they must share a unit then).
        order: Arms of all figures, for their colours.
        per_customer: Whether the metric is a mean per customer; not a ratio or a quantile.
    """
    names = ("metric", "arm", "segment", "control", "n", "n_control", "effect", "lower", "upper", "level")
    data = style.columns(table, "effects", names)
    keep = ~np.isnan(data["effect"])
    if metric is not None:
        keep &= data["metric"] == metric
    title = "Effect per customer against the control" if per_customer else "Effect against the control"
    figure = style.figure(style.unit(title, currency), "")
    if not keep.any():
        return style.empty(figure)
    whole = all(data["segment"][keep] == "all")
    is_one = len(set(data["arm"][keep])) == 1
    is_clear = (data["lower"] > 0) | (data["upper"] < 0)
    if "p_corrected" in table.column_names:
        p = style.columns(table, "effects", ("p_corrected",))["p_corrected"].astype(float)
        is_clear = np.where(data["segment"] == "all", is_clear, p < 1 - data["level"])
    form, money = style.difference(currency), style.behind(currency)
    of_arm = style.arms(data["arm"][keep], order)
    for i in np.flatnonzero(keep)[::-1]:
        arm, segment = data["arm"][i], data["segment"][i]
        name = arm if whole else segment if is_one else f"{arm} · {segment}"
        middle, low, high = (data[part][i : i + 1] for part in ("effect", "lower", "upper"))
        colour = of_arm[arm]
        figure.add_scatter(
            x=middle,
            y=[name],
            mode="markers",
            # An open mark is seen on dark, too.
            marker={"color": colour, "size": 13, "symbol": "circle", "line": {"width": 0}}
            if is_clear[i]
            else {"color": colour, "size": 13, "symbol": "circle-open", "line": {"width": 2.5}},
            error_x={**style.whiskers(middle, low, high), "thickness": 2.5, "width": 8, "color": colour},
            customdata=[
                [low[0], high[0], data["n"][i], data["n_control"][i], data["control"][i], data["level"][i]]
            ],
            hovertemplate=f"%{{x:{form}}}{money} (%{{customdata[0]:{form}}} to %{{customdata[1]:{form}}}"
            " at %{customdata[5]:.0%})"
            "<br>n = %{customdata[2]:,} against %{customdata[3]:,} in %{customdata[4]}<extra>%{y}</extra>",
        )
    figure.update_layout(height=56 * int(keep.sum()) + 120, showlegend=False)
    figure.update_xaxes(rangemode="tozero", tickformat=".1%" if currency == "%" else None)
    return style.zero_line(figure, "v")


def mix(table: pa.Table, by: str = "channel", order: Sequence[str] = ()) -> go.Figure:
    """Draw how many contacts each batch decided, by channel or action.

    Args:
        table: Columns decided_at, n (decisions) and the column named by `by`; `none` is left out.
        by: channel or action_id.
        order: Names in the order of the legend; those not named follow by size.
    """
    data = style.columns(table, "mix", ("decided_at", "n", by))
    figure = style.figure("Batch", "Contacts decided")
    total: dict[str, float] = {}
    for name, n in zip(data[by], data["n"]):
        total[name] = total.get(name, 0.0) + n
    total.pop("none", None)
    if not sum(total.values()):
        return style.empty(figure)
    listed = [n for n in order if n in total]
    names = listed + sorted(set(total) - set(listed), key=lambda name: -total[name])
    colour = style.colours(list(order) + names)
    moments = sorted(set(data["decided_at"]))
    for i, name in enumerate(names):
        rows = data[by] == name
        counts = [float(data["n"][rows & (data["decided_at"] == at)].sum()) for at in moments]
        figure.add_bar(
            x=moments,
            y=counts,
            name=name,
            marker={"color": colour[name], "pattern": {"shape": style.PATTERN[i // 4 % len(style.PATTERN)]}},
            hovertemplate="%{y:,.0f}<extra>%{fullData.name}</extra>",
        )
    return style.time_axis(figure, moments).update_layout(barmode="stack", hovermode="x unified")


def value_over_batches(table: pa.Table, currency: str = "", order: Sequence[str] = ()) -> go.Figure:
    """Draw each arm's value per customer against the holdout, batch by batch, with intervals.

    Args:
        table: Columns decided_at, arm, effect, lower, upper (money per customer), n, is_matured (whether
            every reward window of the batch has closed); batches that are not are left out.
        currency: Unit of the value.
        order: Arms of all figures, for their colours.
    """
    names = ("decided_at", "arm", "effect", "lower", "upper", "n", "is_matured")
    data = style.columns(table, "value_over_batches", names)
    figure = style.figure("Batch", style.unit("Value per customer against the holdout", currency))
    keep = ~np.isnan(data["effect"]) & data["is_matured"].astype(bool)
    if not keep.any():
        return style.empty(figure)
    arms = sorted(set(data["arm"][keep]))
    colour = style.arms(arms, order)
    spacing = style.spacing(data["decided_at"][keep])
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
            marker={"color": colour[arm], "size": 9, "symbol": style.MARK[i % len(style.MARK)]},
            error_y=style.whiskers(data["effect"][rows], low, high),
            customdata=np.column_stack([low, high, data["n"][rows]]),
            hovertemplate=f"%{{x|%d %b %Y}}: %{{y:+.3g}}{style.behind(currency)}"
            " (%{customdata[0]:+.3g} to %{customdata[1]:+.3g})"
            "<br>n = %{customdata[2]:,}<extra>%{fullData.name}</extra>",
        )
    return style.zero_line(style.time_axis(figure, np.unique(data["decided_at"][keep])), "h")


def credits(  # noqa: A001
    table: pa.Table, currency: str = "", by: str = "channel", order: Sequence[str] = ()
) -> go.Figure:
    """Draw the margin credited to each channel, one group of bars per attribution method.

    Args:
        table: Columns method, credit (money) and the column named by `by`.
        currency: Unit of the credit.
        by: channel or treatment_id.
        order: All names that any figure may draw: with it a name has one colour in all of them.
    """
    data = style.columns(table, "credits", ("method", "credit", by))
    figure = style.figure("", style.unit("Credited margin", currency))
    if not table.num_rows:
        return style.empty(figure)
    total = {
        (m, n): float(data["credit"][(data["method"] == m) & (data[by] == n)].sum())
        for m in dict.fromkeys(data["method"])
        for n in dict.fromkeys(data[by])
    }
    names = sorted({n for _, n in total}, key=lambda n: -sum(v for (_, m), v in total.items() if m == n))
    colour = style.colours([*order, *names])
    methods = list(dict.fromkeys(data["method"]))
    for name in names:
        figure.add_bar(
            x=methods,
            y=[total[method, name] for method in methods],
            name=str(name),
            marker={"color": colour[name]},
            hovertemplate=f"%{{y:,.0f}}{style.behind(currency)}<extra>%{{x}}: %{{fullData.name}}</extra>",
        )
    return figure.update_layout(barmode="group")


def clv(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw how many customers have which lifetime value.

    Args:
        table: Columns lower, upper (money, bounds of the bin), n (customers), total (money in the bin).
        currency: Unit of the value.
    """
    data = style.columns(table, "clv", ("lower", "upper", "n", "total"))
    figure = style.figure(style.unit("Lifetime value", currency), "Customers")
    if not table.num_rows:
        return style.empty(figure)
    names = [style.span(a, b) for a, b in zip(data["lower"], data["upper"])]
    share = data["total"] / max(float(data["total"].sum()), 1e-12)
    figure.add_bar(
        x=names,
        y=data["n"],
        marker={"color": style.BLUE},
        customdata=np.column_stack([data["total"], share]),
        hovertemplate=f"%{{y:,}} customers<br>worth %{{customdata[0]:,.0f}}{style.behind(currency)} together,"
        " %{customdata[1]:.0%} of all"
        "<extra>%{x}</extra>",
    )
    return figure.update_layout(bargap=0.08).update_xaxes(type="category")


def clv_origins(table: pa.Table) -> go.Figure:
    """Draw how well the models of lifetime value forecast from earlier moments (rolling origins).

    Args:
        table: Columns of the `clv_scores` table: origin_at, part, ratio, ngini, decile_mape.
    """
    data = style.columns(table, "clv_scores", ("origin_at", "part", "ratio", "ngini", "decile_mape"))
    figure = style.figure("Moment of the forecast", "")
    if not table.num_rows:
        return style.empty(figure)
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
                line={"color": style.FIRST[i], "dash": ("solid", "dot")[j % 2]},
                marker={"symbol": style.MARK[i], "size": 9},
                hovertemplate="%{y:.3f}<extra>%{fullData.name}</extra>",
            )
    return style.time_axis(figure, np.unique(data["origin_at"])).update_yaxes(rangemode="tozero")


def clv_deciles(table: pa.Table, part: str = "orders", currency: str = "") -> go.Figure:
    """Draw the calibration of lifetime value on periods not seen: observed against forecast, by tenths.

    Args:
        table: Columns of the `clv_deciles` table: origin_at, part, decile, forecast, observed, n.
        part: orders or value.
        currency: Unit of values.
    """
    data = style.columns(table, "clv_deciles", ("origin_at", "part", "decile", "forecast", "observed", "n"))
    unit = "orders" if part == "orders" else currency
    figure = style.figure(style.unit("Forecast", unit), style.unit("Observed", unit))
    rows = data["part"] == part
    if not rows.any():
        return style.empty(figure)
    top = float(max(data["forecast"][rows].max(), data["observed"][rows].max()))
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line=style.dashed(), showlegend=False, hoverinfo="skip"
    )
    for i, origin in enumerate(np.unique(data["origin_at"][rows])):
        mine = np.flatnonzero(rows & (data["origin_at"] == origin))
        figure.add_scatter(
            x=data["forecast"][mine],
            y=data["observed"][mine],
            name=str(origin)[:10],
            mode="markers",
            marker={
                "color": style.WHEEL[i % len(style.WHEEL)],
                "symbol": style.MARK[i % len(style.MARK)],
                "size": 10,
            },
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
    data = style.columns(table, "clv_grid", ("repeats", "quiet", "repeats_from", "quiet_from", "n", what))
    figure = style.figure("Days since the last purchase", "Purchases after the first")
    if not table.num_rows:
        return style.empty(figure)
    across, down = (
        [data[name][data[f"{name}_from"] == begin][0] for begin in np.unique(data[f"{name}_from"])]
        for name in ("quiet", "repeats")
    )
    value, count = np.full((len(down), len(across)), np.nan), np.zeros((len(down), len(across)))
    for y, x, v, n in zip(data["repeats"], data["quiet"], data[what], data["n"]):
        value[down.index(y), across.index(x)], count[down.index(y), across.index(x)] = v, n
    bounds = {"zmin": 0.0, "zmax": 1.0} if what == "p_alive" else {}  # a chance, also where all are alike
    figure.add_heatmap(
        x=across,
        y=down,
        z=value,
        **bounds,
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
    data = style.columns(table, "batches", ("decided_at", "arm", "limit", "available", "used", "price"))
    figure = style.figure("Batch", style.unit("Worth of one more unit", currency))
    if not table.num_rows:
        return style.empty(figure)
    names = sorted(set(data["limit"]))
    arms = sorted(set(data["arm"]))
    colour = style.colours(names)
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
                marker={"symbol": style.MARK[i % len(style.MARK)], "size": 8},
                customdata=np.column_stack([data["used"][rows], data["available"][rows]]),
                hovertemplate=f"%{{y:,.3g}}{style.behind(currency)} per unit; "
                "%{customdata[0]:,.0f} of %{customdata[1]:,.0f} used"
                "<extra>%{fullData.name}</extra>",
            )
    return style.time_axis(figure, np.unique(data["decided_at"])).update_yaxes(rangemode="tozero")


def policy_values(table: pa.Table, currency: str = "") -> go.Figure:
    """Draw what each policy would have earned per decision by off-policy estimate, with intervals.

    Args:
        table: Columns of the `policy_values` table; rows whose value is unknown are left out.
        currency: Unit of the value.
    """
    names = ("policy_id", "estimator", "value", "lower", "upper", "ess", "n")
    data = style.columns(table, "policy_values", names)
    figure = style.figure(style.unit("Estimated reward per decision", currency), "")
    keep = ~np.isnan(data["value"])
    if not keep.any():
        return style.empty(figure)
    # On two lines, so that long names leave room for what is drawn.
    labels = np.array([f"{p}<br>{e}" for p, e in zip(data["policy_id"], data["estimator"])], dtype=object)
    order = list(dict.fromkeys(labels[keep]))[::-1]
    for i, estimator in enumerate(dict.fromkeys(data["estimator"][keep])):
        rows = np.flatnonzero(keep & (data["estimator"] == estimator))
        colour = style.ARMS[0]  # marks tell estimators apart; channels have the other colours
        figure.add_scatter(
            x=data["value"][rows],
            y=labels[rows],
            name=str(estimator),
            mode="markers",
            marker={"color": colour, "size": 11, "symbol": style.MARK[i % len(style.MARK)]},
            error_x={
                **style.whiskers(data["value"][rows], data["lower"][rows], data["upper"][rows]),
                "color": colour,
            },
            customdata=np.column_stack([data["ess"][rows], data["n"][rows]]),
            hovertemplate=f"%{{x:,.4g}}{style.behind(currency)}"
            "<br>effective %{customdata[0]:,.0f} of %{customdata[1]:,.0f} decisions"
            "<extra>%{y}</extra>",
        )
    figure.update_layout(height=40 * len(order) + 130, showlegend=False)
    return figure.update_yaxes(categoryorder="array", categoryarray=order)
