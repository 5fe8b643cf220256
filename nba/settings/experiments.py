"""Settings of experiments: arms, metrics, phases, and what makes a trial valid."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from nba.settings.common import Frozen, Share

OtherAlias = Annotated[str, Field(pattern=r"^alias:[a-z0-9_-]+$")]
# What experiments can count or sum per customer; pipelines/analyze.py says how.
MEASURES = (
    *("margin", "revenue", "orders", "items", "returns"),
    *("cost", "contacts", "clicks", "unsubscribes", "visits", "tickets", "complaints"),
)


# Measures in money, and those that a share of customers or contacts is made of.
_MONEY = ("margin", "revenue", "cost")
_PARTS = (("unsubscribes", None), ("unsubscribes", "contacts"), ("clicks", "contacts"), ("returns", "orders"))


class Arm(Frozen):
    """One arm of the experiment and the policy that decides it.

    Attributes:
        name: How reports call it; the arm that receives nothing is `holdout`.
        share: Part of the customers, 0 to 1; all shares sum to 1.
        policy: `none` (holdout), `random`, `response_greedy`, an alias of the registered policy (`champion`,
            `challenger`, or `alias:NAME` for another), or
            `outside`: business as usual, which another system decides and this one only measures.
    """

    name: Annotated[str, Field(min_length=1)]
    share: Share
    policy: Literal["none", "random", "response_greedy", "champion", "challenger", "outside"] | OtherAlias


class Measured(Frozen):
    """A metric of an experiment, per customer from the assignment on.

    Attributes:
        name: How reports call it.
        numerator: What is counted or summed: one of `MEASURES`.
        denominator: What it is divided by, for a ratio of totals; None is per customer.
        role: primary (one per experiment), secondary or guardrail.
        is_good: Whether more of it is good.
        planned_effect: Primary: the least effect worth having, in the metric's unit, over the planned
            duration (28 days where there is no end); the plan's size rests on it.
        margin: Guardrail: the loss that would be borne, in the metric's unit, over the same duration.
        is_adjusted: Whether the same measure before the assignment takes variance away (CUPED).
        cap: Totals above this are cut to it, before and after the assignment (winsorising); declared
            here, before the start, or not at all.
        quantile: Compares this quantile of the totals, 0 to 1, instead of their mean, by bootstrap, for
            one reading; only of secondary metrics without denominator.
    """

    name: Annotated[str, Field(min_length=1)]
    numerator: str
    denominator: str | None = None
    role: Literal["primary", "secondary", "guardrail"] = "secondary"
    is_good: bool = True
    planned_effect: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    is_adjusted: bool = True
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def unit(self) -> str:
        """Unit of its means and effects: money, a fraction, or a number of things.

        Example:
            >>> Measured(name="basket", numerator="revenue", denominator="orders").unit
            'money'
        """
        if self.numerator in _MONEY:
            return "fraction" if self.denominator in _MONEY else "money"
        return "fraction" if (self.numerator, self.denominator) in _PARTS else "number"

    @property
    def adds_up(self) -> bool:
        """Whether its effect times the customers is a total: that of a ratio or a quantile is not."""
        return self.denominator is None and self.quantile is None

    @model_validator(mode="after")
    def _counts_something_known(self) -> "Measured":
        unknown = {self.numerator, self.denominator} - {None, *MEASURES}
        if unknown:
            raise ValueError(
                f"metric {self.name!r} counts {sorted(map(str, unknown))}; known are {list(MEASURES)}"
            )
        if self.role == "guardrail" and not self.margin > 0:
            found = f"guardrail {self.name!r} has margin {self.margin:g}"
            raise ValueError(f"{found}; expected the loss that would be borne, above 0")
        if self.quantile is not None and (self.role != "secondary" or self.denominator):
            raise ValueError(
                f"metric {self.name!r} has a quantile; expected a secondary metric without denominator"
            )
        return self


class Phase(Frozen):
    """A change of shares while an experiment runs; a growing share takes only from shrinking ones.

    Attributes:
        starts_at: When it takes force.
        shares: Arm to its share from then on; all arms, summing to 1.
    """

    starts_at: AwareDatetime
    shares: dict[str, Share]


class Experiment(Frozen):
    """The standing experiment of the workspace: who decides for whom; its holdout is the global one.

    Attributes:
        experiment_id: How tables and reports call it.
        salt: Names the draw of its arms; another salt draws anew.
        control: Arm that the others are compared with.
        level: Confidence level of its intervals, over all looks together.
        arms: Who decides for which part of the customers.
        metrics: What is measured; exactly one is primary.
        phases: Changes of the shares, in order.
        starts_at: First moment at which customers are assigned; None is the first batch.
        ends_at: Planned end; with one the test spends its error over the planned looks, without one it may
            be watched for ever, with wider intervals.
        look_days: Days between looks.
        segments: Attributes of customers (`a_...`, `timezone`) by which effects are also shown; as they are
            now, so none that a treatment could change.
        correction: How claims over segments and secondary metrics are corrected, together: holm
            (family-wise error) or bh (false discovery rate).
    """

    experiment_id: str = "policy"
    salt: str = "policy"
    control: str = "holdout"
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    arms: tuple[Arm, ...] = (
        Arm(name="holdout", share=0.1, policy="none"),
        Arm(name="policy", share=0.9, policy="champion"),
    )
    metrics: tuple[Measured, ...] = (
        Measured(name="margin", numerator="margin", role="primary"),
        Measured(name="orders", numerator="orders"),
        Measured(
            name="unsubscribes",
            numerator="unsubscribes",
            role="guardrail",
            is_good=False,
            margin=0.02,
            is_adjusted=False,
        ),
    )
    phases: tuple[Phase, ...] = ()
    starts_at: AwareDatetime | None = None
    ends_at: AwareDatetime | None = None
    look_days: int = Field(default=7, ge=1)
    segments: tuple[str, ...] = ()
    correction: Literal["holm", "bh"] = "holm"

    def measured(self, name: str) -> Measured | None:
        """Give the declaration of a metric; a measure that is not declared stands for itself."""
        known = next((metric for metric in self.metrics if metric.name == name), None)
        return known or (Measured(name=name, numerator=name) if name in MEASURES else None)

    @property
    def headline(self) -> Measured | None:
        """The metric told in money, in total: the primary one where it can be, else the first that can."""
        able = [metric for metric in self.metrics if metric.unit == "money" and metric.adds_up]
        return next((metric for metric in able if metric.role == "primary"), able[0] if able else None)

    @model_validator(mode="after")
    def _arms_make_a_whole(self) -> "Experiment":
        names = [arm.name for arm in self.arms]
        total = sum(arm.share for arm in self.arms)
        if abs(total - 1) > 1e-9:
            raise ValueError(f"arm shares sum to {total:g}; expected 1")
        if len(set(names)) < len(names):
            raise ValueError(f"arm names repeat: {names}")
        if len(names) < 2:
            raise ValueError(f"the arms are {names}; an experiment needs 2 or more")
        if self.control not in names:
            raise ValueError(f"control is {self.control!r}; arms are {names}")
        if any((arm.name == "holdout") != (arm.policy == "none") for arm in self.arms):
            raise ValueError("the arm with policy 'none' is called 'holdout', and no other is")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> "Experiment":
        faults = []
        measured = [metric.name for metric in self.metrics]
        primary = [metric.name for metric in self.metrics if metric.role == "primary"]
        if len(primary) != 1:
            faults.append(f"primary metrics are {primary}; expected exactly one")
        if len(set(measured)) < len(measured):
            faults.append(f"metric names repeat: {measured}")
        if len(set(self.segments)) < len(self.segments):
            faults.append(f"segments repeat: {list(self.segments)}")
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            faults.append(f"ends_at {self.ends_at} is not after starts_at {self.starts_at}")
        if self.ends_at and not self.starts_at:
            faults.append("ends_at without starts_at")
        names = {arm.name for arm in self.arms}
        for i, phase in enumerate(self.phases):
            if set(phase.shares) != names or abs(sum(phase.shares.values()) - 1) > 1e-9:
                faults.append(
                    f"phase {i + 1} has shares {phase.shares}; expected all of {sorted(names)}, sum 1"
                )
        consent = [name for name in self.segments if name.startswith("can_")]
        if consent:
            faults.append(
                f"segments {consent} are consents, which the experiment itself can change; "
                "expected what was settled before it, such as a_city"
            )
        starts = [phase.starts_at for phase in self.phases]
        if starts != sorted(set(starts)) or (starts and self.starts_at and starts[0] <= self.starts_at):
            faults.append("phases do not follow one another after the start")
        if starts and self.ends_at and starts[-1] >= self.ends_at:
            faults.append(f"a phase starts at {starts[-1]}, not before ends_at {self.ends_at}")
        if faults:
            raise ValueError("; ".join(faults))
        return self


class Trial(Experiment):
    """A declared experiment among customers who are not in the global holdout.

    Attributes:
        experiment_id: How tables and reports call it.
        salt: Names the draw of its arms; another salt draws anew.
        control: Arm that the others are compared with.
        level: Confidence level of its intervals, over all looks together.
        arms: Who decides for which part of its customers; their names are its own.
        metrics: What is measured; exactly one is primary.
        phases: Changes of the shares, in order.
        starts_at: First moment at which customers are assigned.
        ends_at: Planned end; with one the test spends its error over the planned looks, without one it may
            be watched for ever, with wider intervals.
        look_days: Days between looks.
        segments: Attributes of customers by which effects are also shown.
        correction: How claims over segments and secondary metrics are corrected: holm or bh.
        layer: Trials of one layer never share a customer; those of different layers are independent. Only
            trials of the layer `policy` decide, among customers of standing arms that run the champion; in
            others every arm is `outside`. A trial of the layer `standing` assigns nobody: its arms are
            arms of the standing experiment, compared with another control.
        slots: Part of the layer that it takes, as low and high end in 0-1.
        audience: Attribute of customers to the values that take part; empty is everybody.
    """

    experiment_id: str
    salt: str = ""
    control: str
    arms: tuple[Arm, ...]
    starts_at: AwareDatetime
    layer: str = "policy"
    slots: tuple[Share, Share] = (0.0, 1.0)
    audience: dict[str, tuple[str | bool, ...]] = Field(default={})

    @model_validator(mode="after")
    def _has_its_place(self) -> "Trial":
        if not self.slots[0] < self.slots[1]:
            raise ValueError(f"slots are {list(self.slots)}; expected a low and a higher end")
        if self.layer not in ("policy", "standing") and any(arm.policy != "outside" for arm in self.arms):
            raise ValueError(f"layer {self.layer!r} decides nothing; its arms must be 'outside'")
        return self


def not_standing(standing: Experiment, trials: list[Trial]) -> list[str]:
    """Return what keeps trials from running within the standing experiment: arms must keep its shares."""
    shares = {arm.name: arm.share for arm in standing.arms}
    out = []
    for trial in trials:
        total = sum(shares.get(arm.name, 0.0) for arm in trial.arms)
        wanted = {arm.name: shares[arm.name] / total for arm in trial.arms if arm.name in shares and total}
        found = {arm.name: arm.share for arm in trial.arms}
        if wanted.keys() != found.keys() or any(abs(wanted[name] - found[name]) > 1e-9 for name in wanted):
            text = (
                f"trial {trial.experiment_id!r} has arms {found}; expected arms of [experiment] in proportion"
            )
            out.append(f"{text}, such as {wanted or shares}")
    return out


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether two ranges of slots share any."""
    return max(one[0], other[0]) < min(one[1], other[1])
