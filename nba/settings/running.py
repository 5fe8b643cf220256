"""Settings of what runs: reward, policy, models, promotion, attribution, delivery, the app."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nba.settings.common import Frozen, Money, Share
from nba.settings.engagement import Lever


class Reward(Frozen):
    """What counts as the outcome of a decision.

    Attributes:
        window_days: Days after the decision in which orders count.
        unsubscribe_cost: Money that an opt-out is worth, subtracted from the reward and the value of contact.
        margin_share: Part of the margin that counts; 0 leaves only the values below.
        response_value: Money that a purchase is worth beside its margin.
        click_value: Money that a click is worth.
        wait_days: Days by which orders, events and touches may stop short of a window's end for it to be
            closed; where the data are older it waits for more, so that silence is not taken for a no.
        correction_days: Days after its window within which what arrives late still corrects an outcome.
        clv_actions: Retention actions: a response to them is worth its margin and the lifetime value that it
            saves (`clv_at_risk` of the `clv` table).
    """

    window_days: int = Field(default=14, ge=1, le=365)
    unsubscribe_cost: Money = 0.0
    clv_actions: tuple[str, ...] = ()
    margin_share: Share = 1.0
    response_value: Money = 0.0
    click_value: Money = 0.0
    wait_days: int = Field(default=3, ge=0, le=365)
    correction_days: int = Field(default=30, ge=0, le=365)


class PolicySettings(Frozen):
    """How the champion explores.

    Attributes:
        strategy: softmax, squarecb, thompson, epsilon_greedy, greedy or uniform.
        temperature: Money by which a worse treatment is e times less likely (softmax).
        scale: Factor of gamma (squarecb: above 1 is greedier) or of standard errors (thompson: below 1 is).
        floor: Chance spread evenly over all eligible treatments.
        valid_days: Days for which a decision may be delivered.
        levers: Business weights by context, beside those of the actions; at most 30.
    """

    strategy: Literal["softmax", "squarecb", "thompson", "epsilon_greedy", "greedy", "uniform"] = "softmax"
    temperature: Annotated[float, Field(gt=0)] = 0.25
    scale: Annotated[float, Field(gt=0)] = 1.0
    floor: Share = 0.05
    valid_days: int = Field(default=7, ge=1)
    levers: tuple[Lever, ...] = Field(default=(), max_length=30)

    @model_validator(mode="after")
    def _levers_have_names_of_their_own(self) -> "PolicySettings":
        names = [lever.name for lever in self.levers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"levers {twice} stand twice; each needs a name of its own")
        return self


class Models(Frozen):
    """How models are trained.

    Attributes:
        folds: Cross-fitting folds.
        trees: LightGBM's capacity at most: of the chance of a response, fewer where unseen customers gain
            nothing by more.
        leaves, learning_rate, min_leaf: LightGBM's capacity.
        tune_trials: Trials of a search for that capacity, that of the stack of effects, and that of the
            chance to buy (Optuna); 0 takes all as they stand.
        tune_rows: Examples that the search runs on.
        monotone: Features by whose value the chance of a response may only rise (1) or only fall (-1).
        monotone_effects: Features by whose value effects of contact may only rise (1) or only fall (-1). The
            stack that the served model is compared with keeps it; the served effects do not.
        validation: What stops the trees of the chance of a response and calibrates it: other `customers`, or
            `time`, decisions later than those that the trees are grown on (rolling origins).
        validation_gap_days: With `time`, days between the two, in which outcomes were still open; the reward
            window if absent, and not shorter.
        half_life_days: Age at which a training example weighs half; None weighs all alike.
        capacity: What effects of contact may be made of: constant, linear, trees, or a blend of all.
        validate_days: `nba learn` chooses half-life and capacity anew on the latest decisions after so many
            days; 0 takes both as they stand.
        use_open: Whether `nba learn` also reads decisions whose window is still open, completed by how soon
            responses come; the version is then judged only on decisions made after its training.
        warm_start: Workspace of an earlier experiment, a path beside this workspace: its closed decisions are
            what the belief begins from (see docs/learning.md).
        warm_treatments: Own treatment of an earlier one, where their ids differ.
        warm_share: How much an earlier decision weighs beside an own one; if absent `nba learn` chooses it on
            the latest own decisions every `validate_days`, in full until there are enough.
        clv_horizon_days: Horizon of customer lifetime value.
        annual_discount: Yearly discount rate of customer lifetime value.
        clv_strata: Covariate by which models of counts are also fitted, drawn to all customers: a column of
            customers such as a_channel, or `cohort`. It must win the backtest.
    """

    folds: int = Field(default=4, ge=2, le=20)
    trees: int = Field(default=80, ge=1)
    leaves: int = Field(default=15, ge=2)
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    min_leaf: int = Field(default=200, ge=1)
    tune_trials: int = Field(default=0, ge=0)
    tune_rows: int = Field(default=30_000, ge=100)
    monotone: dict[str, Literal[-1, 1]] = Field(default={})
    monotone_effects: dict[str, Literal[-1, 1]] = Field(default={})
    validation: Literal["customers", "time"] = "customers"
    validation_gap_days: Annotated[int, Field(ge=0)] | None = None
    half_life_days: Annotated[float, Field(gt=0)] | None = None
    capacity: Literal["constant", "linear", "trees", "blend"] = "blend"
    validate_days: int = Field(default=28, ge=0)
    use_open: bool = False
    warm_start: str | None = None
    warm_treatments: dict[str, str] = Field(default={})
    warm_share: Share | None = None
    clv_horizon_days: int = Field(default=365, ge=1)
    annual_discount: Annotated[float, Field(ge=0)] = 0.1
    clv_strata: str | None = None

    @model_validator(mode="after")
    def _warm_starts_from_somewhere(self) -> "Models":
        if self.warm_start is None and (self.warm_treatments or self.warm_share is not None):
            raise ValueError("warm_treatments and warm_share need warm_start: the earlier workspace")
        return self


class Promotion(Frozen):
    """What a challenger must show to become the champion; fixed before the first look.

    Attributes:
        margin: Non-inferiority margin, money per decision: the lower bound of the difference must lie above
            minus this. 0 asks for more value.
        planned: Decisions at which the interval, valid at every look, is narrowest.
        level: Confidence level over all looks together.
        unsubscribes: Additional opt-outs per decision that would be borne.
        ece: Largest calibration error of the model, however common responses are.
        ece_share: Largest part of the base rate that the model's calibration error is beyond that of chance.
        approver: Who answers for promotions that `nba weekly` makes where all conditions hold; nobody: it
            only shows the evidence.
    """

    approver: str = ""
    margin: Money = 0.0
    planned: int = Field(default=20_000, ge=100)
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    unsubscribes: Annotated[float, Field(ge=0)] = 0.002
    ece: Annotated[float, Field(gt=0)] = 0.05
    ece_share: Annotated[float, Field(gt=0)] = 0.25


class Attribution(Frozen):
    """How touches earn credit for orders.

    Attributes:
        lookback_days: A touch counts for an order so many days after it, at most.
        kinds: Kinds of touches that count; touches of one decision count once, at the first of these.
        session_minutes: Touches without a decision on one channel within so many minutes are one.
        repeat: `next` counts a touch for the next order only, `each` for every order in its window.
        intent_channels: Channels that only follow what a customer already wants; all others advertise.
        half_life_days: Age at which a touch weighs half (time decay).
        methods: Rules and models whose credits are written.
        calibrate: Method whose credit is also written scaled to what randomisation says was caused.
        holdouts: Channel to the experiment whose arm `holdout` is never served that channel.
        level: Confidence level of incremental numbers.
    """

    lookback_days: Annotated[float, Field(gt=0, le=730)] = 30.0
    kinds: tuple[Literal["sent", "delivered", "seen", "clicked"], ...] = (
        "sent",
        "delivered",
        "seen",
        "clicked",
    )
    session_minutes: Annotated[float, Field(ge=0)] = 30.0
    repeat: Literal["next", "each"] = "next"
    intent_channels: tuple[str, ...] = ("direct", "organic", "brand_search")
    half_life_days: Annotated[float, Field(gt=0)] = 7.0
    methods: tuple[
        Literal[
            "first", "last", "last_ad", "linear", "time_decay", "position", "first_ads", "last_ads",
            "linear_ads", "time_decay_ads", "position_ads", "markov_1", "markov_2", "markov_3",
            "markov_1_ads", "markov_2_ads", "markov_3_ads", "shapley_count", "shapley_rate",
            "shapley_count_ads", "shapley_rate_ads",
        ],
        ...,
    ] = ("first", "last", "linear", "time_decay", "position", "markov_1")  # fmt: skip
    calibrate: str | None = "linear"
    holdouts: dict[str, str] = Field(default={})
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    @model_validator(mode="after")
    def _calibrates_a_method(self) -> "Attribution":
        if self.calibrate is not None and self.calibrate not in self.methods:
            raise ValueError(f"calibrate is {self.calibrate!r}; methods are {list(self.methods)}")
        return self


class Sink(Frozen):
    """Somewhere that delivered batches are sent to.

    Attributes:
        name: How records call it.
        kind: folder (also an object store), sql (PostgreSQL) or hook (a function of one's own).
        target: folder: a path or URL that fsspec knows; sql: postgresql://user@host:port/database; hook:
            module:function.
        table: sql: the table of the decisions.
    """

    name: str
    kind: Literal["folder", "sql", "hook"]
    target: str
    table: Annotated[str, Field(pattern="^[a-z_][a-z0-9_]*$")] = "nba_decisions"


class Delivery(Frozen):
    """How batches are delivered.

    Attributes:
        path: Folder of the batches, relative to the workspace.
        formats: What is written: parquet always, csv and jsonl beside it if named.
        stream_above: Batches of more customers are decided part by part, so that memory does not grow with
            them; smaller ones are solved whole.
        log_choices: Share of the customers of a streamed batch, by hash, of whom every candidate is logged;
            `nba evaluate`, `promote` and `shadow` can replay these alone.
        sinks: Where `nba nightly` and `nba deliver` send batches.
    """

    path: str = "decisions"
    formats: tuple[Literal["parquet", "csv", "jsonl"], ...] = ("parquet",)
    stream_above: int = Field(default=200_000, ge=0)
    log_choices: Share = 1.0
    sinks: tuple[Sink, ...] = ()


class App(Frozen):
    """Who may see and do what in the app.

    Attributes:
        sign_in: Whether people must sign in, through OpenID Connect as `[auth]` of Streamlit's
            `secrets.toml` configures it.
        viewers: E-mail addresses, or domains as `@shop.example`, that may look; empty is whoever signs in.
        approvers: Those who may also approve.
        open_role: Role of whoever opens the app where nobody has to sign in.
        personal_data: Roles that see personal data: the ids by which orchestration knows customers, their
            attributes, free text of events.
    """

    sign_in: bool = False
    viewers: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    open_role: Literal["viewer", "approver"] = "viewer"
    personal_data: tuple[Literal["viewer", "approver"], ...] = ("approver",)
