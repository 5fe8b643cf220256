"""Who decides for each arm, and by what belief: policies, models, and worth beyond the margin."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nba import settings
from nba.catalog import Catalog
from nba.errors import MissingError, listed
from nba.experiments import design
from nba.history import Snapshot
from nba.policy import arbitrate, explore, levers
from nba.policy.explore import Estimate, Policy

Array = NDArray[np.float64]
START = "uniform-start"


class Scores(Protocol):
    """What a model believes, customers by columns of the catalog."""

    @property
    def p_response(self) -> Array:
        """Chance of a response if treated, shape (n, k)."""

    @property
    def uplift(self) -> Array:
        """Change of that chance against no contact, shape (n, k); 0 for `none`."""

    @property
    def uplift_se(self) -> Array:
        """Standard error of the uplift, shape (n, k)."""

    @property
    def margin_per_response(self) -> Array:
        """Money of a response, shape (n,) or (n, k); NaN where not known."""


class Scorer(Protocol):
    """A registered model."""

    @property
    def model_id(self) -> str:
        """Name and version of the model."""

    def scores(self, features: pa.Table, catalog: Catalog) -> Scores:
        """Score every customer of a features table for every column of the catalog."""


def check_features(models: Mapping[str, Scorer], columns: Sequence[str]) -> None:
    """See that the features are there that the models read: what a model misses it would take as unknown.

    Raises:
        DataError: naming every model and feature.
    """
    faults = []
    for alias, model in models.items():
        lacking = sorted(set(getattr(model, "names", ())) - set(columns))
        if lacking:
            faults.append(f"the {alias} ({model.model_id}) reads {lacking}, which the features lack")
    if faults:
        hint = "Declare these features again, or train and promote a model without them."
        raise listed(faults, "the registered models do not fit the features", hint)


class Rule(NamedTuple):
    """Who decides for an arm, before anything is known of its customers.

    Attributes:
        policy: How it explores; None is the holdout.
        policy_id: The policy and the model's version.
        alias: Whose belief counts; where no such model is registered nothing is believed.
        by_response: Whether it ranks by the response alone.
    """

    arm: str
    policy: Policy | None
    policy_id: str
    alias: str = "champion"
    by_response: bool = False


class Decider(NamedTuple):
    """Who decides for an arm.

    Attributes:
        policy: How it explores; None is the holdout.
        policy_id: The policy and the model's version.
        belief: What it ranks by, shapes (n, k), of all customers.
    """

    policy: Policy | None
    policy_id: str
    belief: Estimate


class Worth(NamedTuple):
    """Money beyond margin and cost, and how it is weighed.

    Attributes:
        nuisance: Price of a contact's risk, by how tired the customer is, shape (n, k).
        saved: Lifetime value that a response saves, shape (n, k); None where no action is valued so.
        weight: Business weights, shape (n, k).
    """

    nuisance: Array
    saved: Array | None
    weight: Array


def strategy(chosen: settings.PolicySettings) -> Policy:
    """Make the policy that the settings name."""
    match chosen.strategy:
        case "softmax":
            return explore.Softmax(chosen.temperature, chosen.floor)
        case "squarecb":
            return explore.SquareCB(chosen.scale, chosen.floor)
        case "thompson":
            return explore.Thompson(chosen.scale, chosen.floor)
        case "epsilon_greedy":
            return explore.EpsilonGreedy(chosen.floor)
        case "greedy":
            return explore.Greedy()
        case "uniform":
            return explore.Uniform()


def belief(scores: Scores, catalog: Catalog, worth: Worth) -> Estimate:
    """Put the scores of a model into money."""
    return arbitrate.estimate(scores.uplift, scores.uplift_se, scores.margin_per_response, catalog, *worth)


def rules_of(config: settings.Settings, at: datetime, model_ids: Mapping[str, str]) -> tuple[Rule, ...]:
    """Say who decides for each arm that may decide at a moment.

    Args:
        config: Arms and policy.
        at: Moment of decision.
        model_ids: Alias of a registered model to its name and version.

    Raises:
        MissingError: when there is a champion and an arm runs a model that is not registered: exploring in
            its place would make another experiment of it.
    """
    _check_registered(config, at, model_ids)
    out = []
    for arm in design.arms(config, at):
        if arm.policy in ("none", "outside"):
            out.append(Rule(arm.name, None, arm.policy))
        elif arm.policy == "random":
            out.append(Rule(arm.name, explore.Uniform(), "random"))
        elif arm.policy == "response_greedy" and "champion" in model_ids:
            name = f"response_greedy@{model_ids['champion']}"
            out.append(Rule(arm.name, explore.Greedy(), name, by_response=True))
        elif arm.policy in model_ids:
            policy = strategy(config.policy)
            name = f"{policy.policy_id}@{model_ids[arm.policy]}"
            out.append(Rule(arm.name, policy, name, arm.policy))
        else:
            out.append(Rule(arm.name, explore.Uniform(), START))
    return tuple(out)


def _check_registered(config: settings.Settings, at: datetime, model_ids: Mapping[str, str]) -> None:
    # Without a champion nothing is registered yet: every arm explores evenly, and notes say so.
    others = [arm for arm in design.arms(config, at) if arm.policy.startswith(("challenger", "alias:"))]
    absent = [arm for arm in others if arm.policy not in model_ids]
    if "champion" in model_ids and absent:
        lines = [
            f"arm {arm.name!r} runs {arm.policy!r}, and no model is registered as that" for arm in absent
        ]
        raise MissingError(
            "\n".join(lines),
            "Train one (`nba train`, `nba learn`), name another alias, or let the experiment start later.",
        )


def believed(rule: Rule, scores: Mapping[str, Scores], catalog: Catalog, worth: Worth, n: int) -> Estimate:
    """Give what an arm ranks n customers by, shapes (n, k); NaN where no model is registered."""
    found = scores.get(rule.alias)
    if found is None:
        return arbitrate.unknown(n, len(catalog.treatment_ids))
    if rule.by_response:
        return arbitrate.by_response(found.p_response, found.margin_per_response, catalog, worth.weight)
    return belief(found, catalog, worth)


def worth_of(snapshot: Snapshot, features: pa.Table, catalog: Catalog, config: settings.Settings) -> Worth:
    """Give money beyond margin and cost, and the weights, of customers as known at the snapshot's moment."""
    chosen = config.policy.levers
    return Worth(
        arbitrate.fatigue(arbitrate.nuisance(snapshot, catalog, config.reward), features),
        arbitrate.saved(snapshot, catalog, config.reward, features["customer_id"]),
        levers.weights(levers.contexts(features, chosen), chosen, catalog),
    )


def deciders(
    at: datetime,
    features: pa.Table,
    catalog: Catalog,
    config: settings.Settings,
    models: Mapping[str, Scorer],
    worth: Worth,
) -> dict[str, Decider]:
    """Say by arm who decides at a moment, with what it believes of the customers of a features table.

    Raises:
        MissingError: when an arm runs a model that is not registered.
    """
    scores = {alias: model.scores(features, catalog) for alias, model in models.items()}
    model_ids = {alias: model.model_id for alias, model in models.items()}
    return {
        rule.arm: Decider(
            rule.policy, rule.policy_id, believed(rule, scores, catalog, worth, features.num_rows)
        )
        for rule in rules_of(config, at, model_ids)
    }
