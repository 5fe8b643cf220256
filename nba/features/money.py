"""What a customer spends, earns us, and sends back."""

from nba.features.feature import Feature

_BOUGHT = "not is_return"


def _margin_within(days: int) -> Feature:
    return Feature(
        f"f_margin_{days}",
        "money",
        f"margin of the last {days} days, net of returns",
        "orders",
        f"sum(margin) filter (age <= {days})",
        0.0,
    )


FEATURES: tuple[Feature, ...] = (
    *(_margin_within(days) for days in (28, 90, 365)),
    Feature("f_revenue_365", "money", "revenue of a year", "orders", "sum(revenue) filter (age <= 365)", 0.0),
    Feature(
        "f_margin_per_order",
        "money",
        "mean margin of a purchase",
        "orders",
        f"avg(margin) filter ({_BOUGHT})",
    ),
    Feature(
        "f_orders_total",
        "orders",
        "purchases so far (the weight of the mean margin)",
        "orders",
        f"count(*) filter ({_BOUGHT})",
        0.0,
    ),
    Feature(
        "f_revenue_per_order",
        "money",
        "mean revenue of a purchase",
        "orders",
        f"avg(revenue) filter ({_BOUGHT})",
    ),
    Feature(
        "f_last_order_revenue",
        "money",
        "revenue of the last purchase",
        "orders",
        f"arg_min(revenue, (age, order_id)) filter ({_BOUGHT})",
    ),
    Feature(
        "f_margin_share",
        "fraction",
        "margin in revenue, over all purchases",
        "orders",
        f"sum(margin) filter ({_BOUGHT}) / nullif(sum(revenue) filter ({_BOUGHT}), 0)",
    ),
    Feature(
        "f_items_per_order",
        "items",
        "mean pieces of a purchase",
        "orders",
        f"avg(n_items) filter ({_BOUGHT})",
    ),
    Feature(
        "f_return_share",
        "fraction",
        "returns per purchase, smoothed by one purchase without return",
        "orders",
        f"count(*) filter (is_return) / (count(*) filter ({_BOUGHT}) + 1.0)",
        0.0,
    ),
    Feature(
        "f_returns_365",
        "returns",
        "returns in a year",
        "orders",
        "count(*) filter (is_return and age <= 365)",
        0.0,
    ),
    Feature(
        "f_largest_order",
        "money",
        "revenue of the largest purchase",
        "orders",
        f"max(revenue) filter ({_BOUGHT})",
    ),
    Feature(
        "f_margin_trend",
        "fraction",
        "margin of the last 90 days in that of the last 180, purchases only; unknown without one",
        "orders",
        f"sum(margin) filter ({_BOUGHT} and age <= 90)"
        f" / nullif(sum(margin) filter ({_BOUGHT} and age <= 180), 0)",
    ),
)
