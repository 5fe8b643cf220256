"""How recently and how regularly a customer orders."""

from nba.features.feature import Feature

_BOUGHT = "not is_return"
# Mean time between purchases, a week at least.
_GAP = (
    f"greatest(7, (max(age) filter ({_BOUGHT}) - min(age) filter ({_BOUGHT}))"
    f" / nullif(count(*) filter ({_BOUGHT}) - 1, 0))"
)


def _orders_within(days: int) -> Feature:
    return Feature(
        f"f_orders_{days}",
        "orders",
        f"purchases in the last {days} days",
        "orders",
        f"count(*) filter ({_BOUGHT} and age <= {days})",
        0.0,
    )


FEATURES: tuple[Feature, ...] = (
    Feature(
        "f_days_since_order",
        "days",
        "since the last purchase",
        "orders",
        f"min(age) filter ({_BOUGHT})",
    ),
    Feature(
        "f_days_since_first_order",
        "days",
        "since the first purchase",
        "orders",
        f"max(age) filter ({_BOUGHT})",
    ),
    *(_orders_within(days) for days in (7, 28, 90, 365)),
    Feature(
        "f_order_gap_days",
        "days",
        "mean time between purchases; unknown before the second",
        "orders",
        f"(max(age) filter ({_BOUGHT}) - min(age) filter ({_BOUGHT}))"
        f" / nullif(count(*) filter ({_BOUGHT}) - 1, 0)",
    ),
    Feature(
        "f_overdue",
        "gaps",
        "time since the last purchase in units of the customer's mean gap, at most 20",
        "orders",
        f"least(20, min(age) filter ({_BOUGHT}) * (count(*) filter ({_BOUGHT}) - 1)"
        f" / nullif(max(age) filter ({_BOUGHT}) - min(age) filter ({_BOUGHT}), 0))",
    ),
    Feature(
        "f_order_trend",
        "ratio",
        "smoothed purchases of the last 90 days against the 90 days before",
        "orders",
        f"(count(*) filter ({_BOUGHT} and age <= 90) + 1.0)"
        f" / (count(*) filter ({_BOUGHT} and age > 90 and age <= 180) + 1.0)",
        1.0,
    ),
    Feature(
        "f_weekend_share",
        "fraction",
        "purchases on Saturdays and Sundays",
        "orders",
        f"avg((isodow(ordered_at) >= 6)::int) filter ({_BOUGHT})",
    ),
    Feature(
        "f_stage",
        "stage",
        "journey: 0 no purchase, 1 after the first, 2 active, 3 overdue (two gaps), 4 lapsed (four gaps)",
        "orders",
        f"case count(*) filter ({_BOUGHT}) when 0 then 0 when 1 then 1 else 2"
        f" + (min(age) filter ({_BOUGHT}) > 2 * {_GAP})::int"
        f" + (min(age) filter ({_BOUGHT}) > 4 * {_GAP})::int end",
        0.0,
    ),
)
