"""All sections together, and what they must agree on."""

import hashlib
import json

from pydantic import model_validator

from nba.settings.common import Frozen
from nba.settings.engagement import Engagement, Limits
from nba.settings.experiments import Experiment, Trial, not_standing, overlap
from nba.settings.running import App, Attribution, Delivery, Models, PolicySettings, Promotion, Reward
from nba.settings.sources import CatalogFiles, Identity, Matching, OwnFeature, QualityRules, Source, Workspace

MOST_SOURCES = 1024  # where an identifier was seen first is packed into ten bits


class Settings(Frozen):
    """All settings of a workspace."""

    workspace: Workspace
    sources: tuple[Source, ...] = ()
    identity: Identity = Identity()
    matching: Matching = Matching()
    quality: QualityRules = QualityRules()
    features: tuple[OwnFeature, ...] = ()
    catalog: CatalogFiles = CatalogFiles()
    reward: Reward = Reward()
    limits: Limits = Limits()
    engagement: Engagement = Engagement()
    policy: PolicySettings = PolicySettings()
    experiment: Experiment = Experiment()
    experiments: tuple[Trial, ...] = ()
    models: Models = Models()
    promotion: Promotion = Promotion()
    attribution: Attribution = Attribution()
    delivery: Delivery = Delivery()
    app: App = App()

    @model_validator(mode="after")
    def _trials_do_not_meet(self) -> "Settings":
        faults = []
        ids = [e.experiment_id for e in (self.experiment, *self.experiments)]
        if len(set(ids)) < len(ids):
            faults.append(f"experiment ids repeat: {ids}")
        own = [e for e in self.experiments if e.layer != "standing"]
        arms = [arm.name for e in (self.experiment, *own) for arm in e.arms]
        faults += not_standing(self.experiment, [e for e in self.experiments if e.layer == "standing"])
        decides = [e.experiment_id for e in own if e.layer == "policy"]
        if decides and all(arm.policy != "champion" for arm in self.experiment.arms):
            faults.append(f"trials {decides} have nobody: no arm of [experiment] runs the champion")
        twice = sorted({name for name in arms if arms.count(name) > 1 and name != "holdout"})
        if twice:
            faults.append(f"arms {twice} stand in two experiments; expected names of their own")
        for i, one in enumerate(own):
            for other in own[:i]:
                apart = one.layer != other.layer or not overlap(one.slots, other.slots)
                over = bool(one.ends_at and one.ends_at <= other.starts_at) or bool(
                    other.ends_at and other.ends_at <= one.starts_at
                )
                if not apart and not over:
                    pair = f"{other.experiment_id!r} and {one.experiment_id!r}"
                    faults.append(f"{pair} share slots of layer {one.layer!r} at the same time")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _sources_can_be_told_apart(self) -> "Settings":
        if len(self.sources) > MOST_SOURCES:
            raise ValueError(
                f"{len(self.sources)} sources; expected at most {MOST_SOURCES}: one `path` names many files"
            )
        return self

    @model_validator(mode="after")
    def _matches_by_known_fields(self) -> "Settings":
        faults = [
            f"matching of source {source.name!r} names {unknown}; [matching] fields are {known}"
            for source in self.sources
            if (unknown := sorted({*source.matching} - {*self.matching.fields}))
            for known in [sorted(self.matching.fields)]
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _attributes_are_mapped(self) -> "Settings":
        mapped = {name for source in self.sources for name in (*source.columns, *source.constants)}
        unknown = sorted({*self.workspace.attributes} - mapped)
        if unknown:
            known = sorted(name for name in mapped if name.startswith("a_"))
            raise ValueError(f"[workspace] attributes names {unknown}; sources map {known}")
        return self

    @model_validator(mode="after")
    def _validates_on_closed_outcomes(self) -> "Settings":
        gap, window = self.models.validation_gap_days, self.reward.window_days
        if self.models.validation == "time" and gap is not None and gap < window:
            raise ValueError(
                f"[models] validation_gap_days is {gap}; expected {window} or more, as [reward]"
                " window_days: in between outcomes are open. Leave it out to have it so"
            )
        if gap is None:
            told = self.models.model_copy(update={"validation_gap_days": window})
            object.__setattr__(self, "models", told)  # before anyone has seen it
        return self

    @property
    def trial_share(self) -> float:
        """The part of all customers that trials can have: those of standing arms that run the champion."""
        return sum(arm.share for arm in self.experiment.arms if arm.policy == "champion")

    @property
    def config_hash(self) -> str:
        """Hash of all settings that decide anything, logged with everything that ran with them."""
        text = json.dumps(self.model_dump(mode="json", exclude={"app"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
