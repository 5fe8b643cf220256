"""What treatments and customers are worth: credit, incremental effects, paths, lifetime value."""

from nba.tables import fields as f
from nba.tables.fields import Table

CREDITS = Table(
    "credits",
    "Attribution: which touch earns which share of an order.",
    ("method", "order_id", "touch_id"),
    (
        f.text("method", "rule or model"),
        f.identifier("order_id", "the order"),
        f.identifier("touch_id", "the touch"),
        f.CUSTOMER,
        f.text("channel", "the medium of the touch"),
        f.identifier("treatment_id", "what was sent, where it was ours", nullable=True),
        f.chance("share", "part of the order's credit"),
        f.money("credit", "part of the order's margin"),
        f.money("revenue_credit", "part of the order's revenue", nullable=True),
    ),
    laws=("shares sum to 1 within order and method",),
)

ATTRIBUTION = Table(
    "attribution",
    "Attribution by channel and period: what a method credits against what randomisation says was caused.",
    ("method", "channel", "period"),
    (
        f.text("method", "rule or model"),
        f.text("channel", "the medium; `all` for all advertising together"),
        f.text("period", "`all`, or a month of the touches as 2026-01"),
        f.flag("is_advertising", "false for channels that only follow intent"),
        f.number("conversions", "orders credited, in parts", "orders", nullable=True),
        f.money("credited", "margin credited", nullable=True),
        f.money("revenue", "revenue credited", nullable=True),
        f.money(
            "compared", "of the margin, what touches got that the margin caused speaks of", nullable=True
        ),
        f.money("cost", "spent on these touches", low=0.0, nullable=True),
        f.number("incremental_conversions", "orders caused", "orders", nullable=True),
        f.number("conversions_lower", "lower end of its interval", "orders", nullable=True),
        f.number("conversions_upper", "upper end of its interval", "orders", nullable=True),
        f.money("incremental", "margin caused", nullable=True),
        f.money("se", "standard error of the margin caused", nullable=True, low=0.0),
        f.money("lower", "lower end of the interval of the margin caused", nullable=True),
        f.money("upper", "upper end of the interval of the margin caused", nullable=True),
        f.number("ratio", "compared over caused", "times", nullable=True),
        f.number("ratio_lower", "lower end of its interval", "times", nullable=True),
        f.number("ratio_upper", "upper end of its interval", "times", nullable=True),
        *f.interval("roas", "margin caused per money spent", "times"),
        *f.interval("cost_per_conversion", "spent per order caused; no upper end: unbounded", "money"),
        f.text("warning", "where the interval of the ratio excludes 1; else empty"),
        f.text("source", "what the incremental numbers rest on: randomised, observed, combined, none"),
        f.text("reason", "why a number is unknown, where it is; else empty"),
    ),
)

INCREMENTAL = Table(
    "incremental",
    "What contact caused and what it returned on its cost, by channel, action and period.",
    ("level", "item", "period"),
    (
        f.text("level", "channel, action, or `all` for all contact against the holdout"),
        f.text("item", "the channel or action"),
        f.text("period", "`all`, or a month of the decisions as 2026-01"),
        f.count("n", "decisions or customers that the estimate rests on", low=0),
        f.money("cost", "spent on the contacts that the estimate speaks of", low=0.0, nullable=True),
        f.money("spent", "spent on all its contacts, judged or not", low=0.0, nullable=True),
        *f.interval("margin", "margin caused, before cost", "money"),
        *f.interval("conversions", "orders caused", "orders"),
        *f.interval("roas", "margin caused per money spent", "times"),
        *f.interval("cost_per_conversion", "spent per order caused; no upper end: unbounded", "money"),
        *f.interval("marginal_return", "margin caused per money by a few more contacts", "times"),
        f.text("source", "what it rests on: randomised, observed, combined, none"),
        f.text("reason", "what is unknown and why; else empty"),
    ),
)

ATTRIBUTION_PARTS = Table(
    "attribution_parts",
    "Credit beside cause by channel, action and campaign, over time and by part of the customers.",
    ("method", "level", "item", "period", "audience"),
    (
        f.text("method", "rule or model"),
        f.text("level", "channel, action or campaign"),
        f.text("item", "the channel, action or campaign; `unknown` where a contact was not ours"),
        f.text("period", "`all`, or a month as 2026-01: of the touches, and of the decisions before them"),
        f.text("audience", "`all`, or the part of the customers as attribute=value"),
        f.money("credited", "margin credited", nullable=True),
        f.money("compared", "of it, what contacts got that the margin caused speaks of", nullable=True),
        f.money("incremental", "margin caused", nullable=True),
        f.money("lower", "lower end of its interval", nullable=True),
        f.money("upper", "upper end of its interval", nullable=True),
        f.number("ratio", "compared over caused", "times", nullable=True),
        *f.interval("incremental_share", "caused, as a part of `compared`", "fraction"),
        f.text("warning", "where what was credited lies outside the interval; else empty"),
        f.text("source", "what the incremental numbers rest on: randomised, observed, combined, none"),
        f.text("reason", "why a number is unknown, where it is; else empty"),
    ),
)

PATH_STATISTICS = Table(
    "path_statistics",
    "How customers come to order: path lengths, lags, frequent paths.",
    ("measure", "item"),
    (
        f.text("measure", "length, lag_days, path, journeys"),
        f.text("item", "the length, the days, the path, what was counted"),
        f.number("conversions", "orders", "orders", low=0.0),
        f.number("nulls", "journeys without an order", "journeys", low=0.0, nullable=True),
        f.money("margin", "of the orders", nullable=True),
    ),
)

CLV = Table(
    "clv",
    "Customer lifetime value: expected discounted future margin.",
    ("customer_id", "as_of"),
    (
        f.CUSTOMER,
        f.time("as_of", "the moment of the forecast"),
        f.count("n_repeat", "days with a purchase after the first", low=0),
        f.number("recency_days", "first to last purchase", "days", low=0.0, nullable=True),
        f.number("age_days", "first purchase to as_of", "days", low=0.0, nullable=True),
        f.chance("p_alive", "chance of still being a customer", nullable=True),
        f.number("expected_orders", "purchases over the horizon", "orders", low=0.0, nullable=True),
        f.number("orders_lower", "lower end of their 90% interval", "orders", low=0.0, nullable=True),
        f.number("orders_upper", "upper end of their 90% interval", "orders", low=0.0, nullable=True),
        f.money("expected_margin", "margin per purchase", nullable=True),
        f.money("clv", "expected discounted margin over the horizon", nullable=True),
        f.money("clv_lower", "lower end of its 90% prediction interval", nullable=True),
        f.money("clv_upper", "upper end of its 90% prediction interval", nullable=True),
        f.money("clv_at_risk", "worth if surely still a customer, less clv", low=0.0, nullable=True),
        f.time("next_order_at", "median of the next purchase, if one comes by the horizon", nullable=True),
        f.count("horizon_days", "the horizon", "days", low=1),
        f.identifier("model_id", "the model that forecasts"),
        f.text("reason", "why it is unknown, or what limits it; else empty"),
    ),
)

CLV_GROUPS = Table(
    "clv_groups",
    "Customer lifetime value by segment, acquisition channel and cohort.",
    ("attribute", "item"),
    (
        f.text("attribute", "`all`, `cohort` (quarter of the first purchase) or an attribute of customers"),
        f.text("item", "its value"),
        f.count("n", "customers", low=0),
        f.count("n_known", "of these, customers with a forecast", low=0),
        f.chance("p_alive", "mean chance of still being a customer", nullable=True),
        f.number("expected_orders", "mean purchases over the horizon", "orders", low=0.0, nullable=True),
        f.money("clv", "mean lifetime value", nullable=True),
        f.money("clv_total", "lifetime value of all", nullable=True),
        f.money("clv_at_risk", "what winning them back would save, of all", low=0.0, nullable=True),
    ),
)

CLV_GRID = Table(
    "clv_grid",
    "Customers by frequency and by time since the last purchase: how many, how alive, what they are worth.",
    ("repeats", "quiet"),
    (
        f.text("repeats", "days with a purchase after the first: 0, 1, 2, 3-4, 5-9, 10+"),
        f.text("quiet", "days since the last purchase: 0-29, 30-59, 60-89, 90-179, 180-364, 365+"),
        f.count("repeats_from", "lower end of repeats", low=0),
        f.count("quiet_from", "lower end of quiet", "days", low=0),
        f.count("n", "customers", low=0),
        f.chance("p_alive", "mean chance of still being a customer", nullable=True),
        f.number("expected_orders", "mean purchases over the horizon", "orders", low=0.0, nullable=True),
        f.money("clv", "mean lifetime value", nullable=True),
    ),
)

CLV_SCORES = Table(
    "clv_scores",
    "How well the chosen models forecast what followed earlier moments (rolling origins).",
    ("origin_at", "part"),
    (
        f.time("origin_at", "the moment of the forecast"),
        f.text("part", "orders or value"),
        f.number("days", "how far it looked", "days", low=0.0),
        f.count("n", "customers", low=0),
        f.number("mae", "mean absolute error of a customer", "orders or money", nullable=True),
        f.number("rmse", "root of the mean squared error", "orders or money", nullable=True),
        f.number("ratio", "total forecast over total observed", "times", nullable=True),
        f.number("ngini", "normalised Gini: 1 ranks perfectly, 0 by chance", "fraction", nullable=True),
        f.number(
            "top_decile",
            "part of the total that the tenth forecast highest brought",
            "fraction",
            nullable=True,
        ),
        f.number("decile_mape", "mean relative error of ten groups by forecast", "fraction", nullable=True),
        f.chance("cover", "customers within their 90% prediction interval", nullable=True),
        f.chance("above", "customers above it; 5% is right", nullable=True),
    ),
)

CLV_DECILES = Table(
    "clv_deciles",
    "Calibration of lifetime value on periods that the models had not seen, by tenths of the forecast.",
    ("origin_at", "part", "decile"),
    (
        f.time("origin_at", "the moment of the forecast"),
        f.text("part", "orders or value"),
        f.count("decile", "1 is the lowest forecast", low=0),
        f.number("forecast", "mean forecast", "orders or money"),
        f.number("observed", "mean of what followed", "orders or money"),
        f.count("n", "customers", low=1),
    ),
)

CLV_BACKTEST = Table(
    "clv_backtest",
    "How the candidates of customer lifetime value forecast the latest stretch of history.",
    ("part", "candidate"),
    (
        f.text("part", "orders or value"),
        f.text("candidate", "the model"),
        f.number("loss", "mean loss on customers it had not seen the future of", "deviance"),
        f.number("default_loss", "that of the default", "deviance"),
        f.number("se", "standard error of the difference", "deviance", low=0.0),
    ),
)
