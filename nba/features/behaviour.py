"""What a customer does between orders: browsing, service, tenure, and the season."""

from nba.features.feature import Feature, smoothed

_VISITS = 4
_YEAR = "2 * pi() * dayofyear($at) / 365.25"


def _events_within(kind: str, plural: str, days: int) -> Feature:
    return Feature(
        f"f_{plural}_{days}",
        plural,
        f"{plural} in the last {days} days",
        "events",
        f"count(*) filter (kind = '{kind}' and age <= {days})",
        0.0,
    )


def _per_visit(kind: str, plural: str, usual: float) -> Feature:
    each = f"count(*) filter (kind = '{kind}' and age <= 365)"
    return Feature(
        f"f_{plural}_per_visit",
        f"{plural} per visit",
        f"{plural} per visit in a year, smoothed towards {usual} with the weight of {_VISITS} visits",
        "events",
        smoothed(each, "count(*) filter (kind = 'visit' and age <= 365)", usual, _VISITS),
        usual,
    )


def _days_since(kind: str) -> Feature:
    return Feature(
        f"f_days_since_{kind}",
        "days",
        f"since the last {kind}",
        "events",
        f"min(age) filter (kind = '{kind}')",
    )


FEATURES: tuple[Feature, ...] = (
    *(_events_within("visit", "visits", days) for days in (7, 28, 90, 365)),
    _events_within("view", "views", 28),
    *(_events_within("cart", "carts", days) for days in (7, 28)),
    _events_within("search", "searches", 28),
    _per_visit("view", "views", 1.0),
    _per_visit("cart", "carts", 0.25),
    _per_visit("search", "searches", 0.25),
    *(_days_since(kind) for kind in ("visit", "cart", "search")),
    Feature(
        "f_app_share",
        "fraction",
        "events in the app among web and app, in 90 days",
        "events",
        "count(*) filter (channel = 'app' and age <= 90)"
        " / nullif(count(*) filter (channel in ('app', 'web') and age <= 90), 0)",
    ),
    *(_events_within("ticket", "tickets", days) for days in (90, 365)),
    *(_events_within("complaint", "complaints", days) for days in (180, 730)),
    Feature("f_tenure_days", "days", "since first seen in any source", "customers", "age"),
    Feature("f_season_sin", "ratio", "sine of the time of year", "customers", f"sin({_YEAR})"),
    Feature("f_season_cos", "ratio", "cosine of the time of year", "customers", f"cos({_YEAR})"),
    Feature(
        "f_visit_trend",
        "ratio",
        "smoothed visits of the last 28 days against the 28 days before",
        "events",
        "(count(*) filter (kind = 'visit' and age <= 28) + 1.0)"
        " / (count(*) filter (kind = 'visit' and age > 28 and age <= 56) + 1.0)",
        1.0,
    ),
    *(
        Feature(
            f"f_hour_{name}",
            "ratio",
            f"mean {wave} of the hour of day (UTC) of events: the preferred hour, and how strongly",
            "events",
            f"avg({name}(2 * pi() * (epoch_us(occurred_at) % 86400000000) / 86400e6))",
        )
        for name, wave in (("sin", "sine"), ("cos", "cosine"))
    ),
)
