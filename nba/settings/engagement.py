"""Settings of who may be contacted: volumes, limits, rules, purposes, contact policies, send windows."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from nba.settings.common import Frozen, Money

# What is asked of every candidate, beside a workspace's own rules, with its stage.
ASKED_ALWAYS = (
    ("action not running", "running"),
    ("no external id", "running"),
    ("no consent", "consent"),
    ("opted out", "consent"),
    ("cooldown", "contact"),
    ("frequency cap", "contact"),
    ("another action of the issue is active", "contact"),
    ("quiet until it lapses", "contact"),
)


class Volume(Frozen):
    """How many contacts there may or should be, over all customers.

    Attributes:
        name: Of the limit, as reports call it.
        channels, actions, groups: What counts; all that are given must fit, empty is all.
        most: At most so many; held exactly. None is no limit.
        least: At least so many in expectation, even where they are worth less than nothing.
        per: batch, or day (since the workspace's midnight, earlier batches counted).
    """

    name: str = Field(min_length=1)
    channels: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    most: Annotated[int, Field(ge=0)] | None = None
    least: int = Field(default=0, ge=0)
    per: Literal["batch", "day"] = "batch"

    @model_validator(mode="after")
    def _limits_something(self) -> "Volume":
        if self.most is None and self.least == 0:
            raise ValueError(f"volume {self.name!r} needs most, least or both")
        if self.most is not None and self.least > self.most:
            raise ValueError(f"volume {self.name!r} asks for at least {self.least} and at most {self.most}")
        return self


class Limits(Frozen):
    """Limits of one batch over all customers.

    Attributes:
        capacity: Channel to contacts per batch; a channel without one is unlimited.
        budget: Money per batch; None is unlimited.
        contact_days, max_contacts: A customer gets at most so many contacts in so many days.
        volumes: Further limits, per channel, action, group and day, from above and below.
    """

    capacity: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    budget: Money | None = None
    contact_days: int = Field(default=28, ge=1)
    max_contacts: int = Field(default=3, ge=1)
    volumes: tuple[Volume, ...] = ()


class Rule(Frozen):
    """A condition of the engagement policy: a candidate stays where it is true.

    Attributes:
        name: Of the rule; a removed candidate keeps it as its reason.
        stage: eligibility (may have it), applicability (makes sense now) or suitability (in the customer's
            interest).
        keep: SQL condition over features (`f_...`), columns of customers and `decided_at`; unknown removes.
        issues, groups, actions, treatments, channels: Whom it concerns; empty is all.
    """

    name: str = Field(min_length=1)
    stage: Literal["eligibility", "applicability", "suitability"] = "eligibility"
    keep: str
    issues: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class Lever(Frozen):
    """A business weight on what responses are worth, for the customers of a condition (their context).

    Attributes:
        name: Of the lever, as reports call it.
        when: SQL condition over features (`f_...`); where it is false or unknown the lever changes nothing.
        weight: Factor, 0.1 to 10; all that concern a candidate are multiplied with its action's own lever,
            and the product is kept within the same bounds.
        issues, groups, actions, treatments, channels: What it concerns; empty is all.
    """

    name: str = Field(min_length=1)
    when: str
    weight: Annotated[float, Field(ge=0.1, le=10)]
    issues: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    treatments: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class Purpose(Frozen):
    """Consent for a purpose, beside that for the channel.

    Attributes:
        name: Of the purpose.
        column: Flag of customers that holds it (`a_...`); unknown is no.
        issues: Issues that serve this purpose; empty is all.
        channels: Channels on which it is asked for; empty is all.
    """

    name: str = Field(min_length=1)
    column: str
    issues: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


class ContactPolicy(Frozen):
    """A pause after what came of contacts.

    Attributes:
        name: Of the policy; a removed candidate keeps it as its reason.
        after: What is counted: sent, seen, clicked, refused, unsubscribed or bought (a response within the
            reward window, from the purchase on).
        times: How often it must have happened.
        within_days: In how many days; None is as long as the pause. A day is 24 hours.
        pause_days: Days without it, from the last time on.
        level: What is counted and paused: treatment, action, group, issue, channel or everything.
        only: Names at that level that it concerns; empty is all.
    """

    name: str = Field(min_length=1)
    after: Literal["sent", "seen", "clicked", "refused", "unsubscribed", "bought"]
    times: int = Field(default=1, ge=1)
    within_days: Annotated[float, Field(gt=0)] | None = None
    pause_days: Annotated[float, Field(gt=0)]
    level: Literal["treatment", "action", "group", "issue", "channel", "everything"] = "action"
    only: tuple[str, ...] = ()


class FrequencyCap(Frozen):
    """How often one customer may be contacted.

    Attributes:
        name: Of the cap; a removed candidate keeps it as its reason.
        most: Contacts within the window.
        days: Rolling window: contacts less than so many times 24 hours ago, whatever clocks show.
        calendar: Window that begins at the customer's midnight: day, week (from Monday) or month.
        level: What is counted: treatment, action, group, issue, channel or everything.
        only: Names at that level that it concerns; empty is each.
    """

    name: str = Field(min_length=1)
    most: int = Field(ge=0)
    days: Annotated[float, Field(gt=0)] | None = None
    calendar: Literal["day", "week", "month"] | None = None
    level: Literal["treatment", "action", "group", "issue", "channel", "everything"] = "everything"
    only: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_one_window(self) -> "FrequencyCap":
        if (self.days is None) == (self.calendar is None):
            raise ValueError(f"cap {self.name!r} needs either days or calendar")
        return self


Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)


class SendWindow(Frozen):
    """When contacts may go out, by the customer's own clock.

    Attributes:
        channels: Channels that it concerns; empty is all. The first window that names a channel counts.
        days: Allowed weekdays: mon, tue, wed, thu, fri, sat, sun.
        opens, closes: Allowed hours, HH:MM; closes may be 24:00.
    """

    channels: tuple[str, ...] = ()
    days: tuple[Weekday, ...] = WEEKDAYS
    opens: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")] = "00:00"
    closes: Annotated[str, Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")] = "24:00"

    @model_validator(mode="after")
    def _opens_before_it_closes(self) -> "SendWindow":
        if self.opens >= self.closes or not self.days:
            raise ValueError(f"opens {self.opens}, closes {self.closes}, days {list(self.days)}: never open")
        return self


class Engagement(Frozen):
    """Who may have what, and when (the engagement policy).

    Attributes:
        issue_days: Days for which the action last given keeps its issue: other actions of the issue wait,
            on every channel; 0 is off.
        rules: Conditions.
        purposes: Consents beside those of the channels.
        contact_policies: Pauses.
        frequency_caps: Contacts per customer.
        send_windows: Quiet hours and allowed days.
    """

    issue_days: Annotated[float, Field(ge=0)] = 0.0
    rules: tuple[Rule, ...] = ()
    purposes: tuple[Purpose, ...] = ()
    contact_policies: tuple[ContactPolicy, ...] = ()
    frequency_caps: tuple[FrequencyCap, ...] = ()
    send_windows: tuple[SendWindow, ...] = ()

    @model_validator(mode="after")
    def _names_are_its_own(self) -> "Engagement":
        parts = (self.rules, self.purposes, self.contact_policies, self.frequency_caps)
        names = [one.name for part in parts for one in part]
        twice = sorted({name for name in names if names.count(name) > 1})
        if len(names) > 100:
            raise ValueError(f"{len(names)} rules, purposes, policies and caps; at most 100 are asked")
        reserved = ("none", *(name for name, _ in ASKED_ALWAYS))
        taken = sorted({name for name in names if name.strip().lower() in ("", *reserved)})
        if taken:
            raise ValueError(f"names {taken} cannot be told from {reserved}; choose other ones")
        if twice:
            raise ValueError(f"names {twice} stand twice; each rule, purpose, policy and cap needs its own")
        return self
