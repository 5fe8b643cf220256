"""How much a customer is contacted and what comes of it."""

from nba.features.feature import Feature, response_rate, smoothed
from nba.tables import CHANNELS

# Rates are smoothed towards what a channel reaches in general, with the weight of _WEIGHT contacts.
_WEIGHT = 4
_CLICKS = 0.03
_SEEN = 0.25


def _contacts_within(days: int) -> Feature:
    return Feature(
        f"f_contacts_{days}",
        "contacts",
        f"messages sent in the last {days} days, on all channels",
        "touches",
        f"count(*) filter (kind = 'sent' and age <= {days})",
        0.0,
    )


def _of_channel(channel: str) -> tuple[Feature, ...]:
    on = f"channel = '{channel}'"
    sent = f"count(*) filter ({on} and kind = 'sent' and age <= 365)"
    clicked = f"count(*) filter ({on} and kind = 'clicked' and age <= 365)"
    seen = f"count(*) filter ({on} and kind = 'seen' and age <= 365)"
    return (
        Feature(
            f"f_sent_{channel}_90",
            "contacts",
            f"messages sent by {channel} in the last 90 days",
            "touches",
            f"count(*) filter ({on} and kind = 'sent' and age <= 90)",
            0.0,
        ),
        Feature(
            f"f_click_rate_{channel}",
            "fraction",
            f"clicks per message by {channel} in a year, smoothed towards {_CLICKS}",
            "touches",
            smoothed(clicked, sent, _CLICKS, _WEIGHT),
            _CLICKS,
        ),
        Feature(
            f"f_seen_rate_{channel}",
            "fraction",
            f"messages seen by {channel} in a year, smoothed towards {_SEEN}",
            "touches",
            smoothed(seen, sent, _SEEN, _WEIGHT),
            _SEEN,
        ),
        Feature(
            f"f_days_since_engaged_{channel}",
            "days",
            f"since the last message by {channel} that was seen or clicked",
            "touches",
            f"min(age) filter ({on} and kind in ('seen', 'clicked'))",
        ),
        Feature(
            f"f_can_{channel}",
            "flag",
            f"whether {channel} is allowed now: consent, and no later opt-out on it",
            "customers",
            f"can_{channel} and not coalesce(opted_out_{channel}, false)",
        ),
    )


FEATURES: tuple[Feature, ...] = (
    *(_contacts_within(days) for days in (7, 14, 28)),
    Feature(
        "f_days_since_contact",
        "days",
        "since the last message sent",
        "touches",
        "min(age) filter (kind = 'sent')",
    ),
    Feature(
        "f_days_since_click",
        "days",
        "since the last click on a message",
        "touches",
        "min(age) filter (kind = 'clicked')",
    ),
    *(feature for channel in CHANNELS for feature in _of_channel(channel)),
    Feature(
        "f_decided_90",
        "decisions",
        "decisions to contact in the last 90 days",
        "decisions",
        "count(*) filter (treatment_id <> 'none' and age <= 90)",
        0.0,
    ),
    Feature(
        "f_decided_response_rate",
        "fraction",
        "responses per closed decision to contact, smoothed towards 0.05",
        "decisions",
        response_rate("treatment_id <> 'none'", 0.05, _WEIGHT),
        0.05,
    ),
    Feature(
        "f_left_alone_response_rate",
        "fraction",
        "responses per closed decision to leave the customer alone, smoothed towards 0.05",
        "decisions",
        response_rate("treatment_id = 'none'", 0.05, _WEIGHT),
        0.05,
    ),
    Feature(
        "f_clicks_per_seen",
        "fraction",
        "clicks per message seen in a year, on all channels, smoothed towards 0.1",
        "touches",
        smoothed(
            "count(*) filter (kind = 'clicked' and age <= 365)",
            "count(*) filter (kind = 'seen' and age <= 365)",
            0.1,
            _WEIGHT,
        ),
        0.1,
    ),
    Feature(
        "f_days_since_decision",
        "days",
        "since the last decision to contact",
        "decisions",
        "min(age) filter (treatment_id <> 'none')",
    ),
    Feature(
        "f_contact_pressure",
        "ratio",
        "messages of the last 28 days against the mean of 28 days in the year, smoothed by one",
        "touches",
        "(count(*) filter (kind = 'sent' and age <= 28) + 1.0)"
        " / (count(*) filter (kind = 'sent' and age <= 365) * 28 / 365.0 + 1.0)",
        1.0,
    ),
    Feature(
        "f_opt_outs",
        "opt-outs",
        "opt-outs so far, on all channels",
        "touches",
        "count(*) filter (kind = 'unsubscribed')",
        0.0,
    ),
)
