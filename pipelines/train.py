"""Train: closed decisions to a scorer, logged and registered as the next version of the policy."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nba import feedback, plots, settings, tables, tracking
from nba.catalog import Catalog
from nba.errors import DataError, MissingError, listed
from nba.features import examples as snapshot_examples
from nba.features import table as features
from nba.history import History
from nba.models import card, compare, explain, immature, inputs, latest, tuning, warm, wording
from nba.models.report import Report
from nba.models.scorer import Scorer
from nba.settings import Models, Settings
from pipelines.progress import Progress, silent

# What was decided, what was known then, and what came of it.
_EXAMPLES = """
    select d.decision_id, d.customer_id, d.decided_at as as_of, d.treatment_id, d.p_action, d.arm,
        o.is_response, o.is_click, o.reward, f.* exclude (customer_id, as_of)
    from decisions d
    join ({settled}) o using (decision_id)
    join features f on f.customer_id = d.customer_id and f.as_of = d.decided_at
    where d.decided_at < $at and d.policy_id <> 'outside'
    order by d.decided_at, d.decision_id
"""
_CANDIDATES = "select decision_id, treatment_id, p_action from choices join asked using (decision_id)"
_EXPLAINED = 50  # decisions whose reasons are logged as examples
_LOADER = "nba.models.scorer:Scorer"
_FIGURES: Mapping[str, Callable[[pa.Table], Any]] = {
    "calibration": plots.calibration,
    "qini": plots.qini,
    "uplift_deciles": plots.uplift_deciles,
    "importance": plots.importance,
}


@dataclass(frozen=True)
class TrainReport:
    """What was trained.

    Attributes:
        policy_id: Registered name and version.
        model_id: Hash of the model's content.
        alias: What the version is called now: champion or challenger; empty where it is an earlier one, which
            neither is.
        is_new: False if the same model was registered before: then nothing changed.
        rows: Measures of the model on customers it had not seen.
        report: All measures and tables.
        comparison: With the stack of learners, if it was asked for.
    """

    policy_id: str
    model_id: str
    alias: str
    is_new: bool
    rows: list[dict[str, Any]]
    report: Report
    comparison: compare.Comparison | None = None


def examples(history: History, at: datetime) -> pa.Table:
    """Join decisions with closed outcomes and the features at the moment of decision.

    Args:
        history: With decisions, outcomes and features.
        at: Outcomes that had closed by then count.

    Returns:
        The `examples` table. A decision counts as given whether or not it was delivered: what is learnt
        is the effect of deciding, which is what the policy can do.

    Raises:
        MissingError: when there are no decisions, outcomes or features yet.
    """
    for name in ("decisions", "outcomes", "features"):
        history.paths(name)
    outcomes = feedback.settled(is_corrected=history.has("corrections"))
    return tables.EXAMPLES.conform(history.sql(_EXAMPLES.format(settled=outcomes), {"at": at}))


def own_examples(history: History, at: datetime) -> pa.Table:
    """Give `examples`, none where nothing was decided or has closed yet."""
    if not all(history.has(name) for name in ("decisions", "outcomes", "features")):
        return tables.EXAMPLES.empty()
    return examples(history, at)


def earlier_examples(workspace: Path, config: Settings, catalog: Catalog, at: datetime) -> pa.Table:
    """Give the closed decisions of the earlier experiment that the belief begins from.

    Args:
        workspace: Folder of the workspace, beside which `warm_start` is looked for.
        config: Names the earlier workspace.
        catalog: The own treatments, by which they are given.
        at: Outcomes that had closed by then count.

    Raises:
        MissingError: when there is no such workspace, or nothing was decided there.
        DataError: when its window, its currency or its treatments do not fit.
    """
    folder = (workspace / str(config.models.warm_start)).resolve()
    if folder == workspace.resolve():
        hint = "Its own decisions count anyway: name another one in [models] warm_start."
        raise DataError(f"warm_start names this workspace, {folder}; expected an earlier one", hint)
    other = settings.read(folder)
    pairs = {
        "a reward window of {} days": (other.reward.window_days, config.reward.window_days),
        "money in {}": (other.workspace.currency, config.workspace.currency),
    }
    faults = [
        f"{what.format(a)}; this workspace has {what.format(b)}" for what, (a, b) in pairs.items() if a != b
    ]
    if faults:
        hint = "Its responses would mean something else here: name another [models] warm_start."
        raise listed(faults, f"the earlier experiment in {folder} does not fit", hint)
    return warm.mapped(examples(History.read(folder), at), config.models.warm_treatments, catalog)


def _known(workspace: Path, config: Settings, catalog: Catalog, at: datetime) -> pa.Table:
    # What has closed here, and what the belief begins from at the share chosen last.
    history = History.read(workspace)
    if config.models.warm_start is None:
        return examples(history, at)
    earlier = earlier_examples(workspace, config, catalog, at)
    share, _ = warm_share(history, config, at, None)
    return pool(history, own_examples(history, at), earlier, warm.SHARES[0] if share is None else share, at)


def pool(history: History, own: pa.Table, earlier: pa.Table, share: float, at: datetime) -> pa.Table:
    """Set earlier examples beside the own ones, by the features of this workspace (`warm.pooled`).

    Args:
        history: Of this workspace: what features it has by now, if no example tells.
        own: Its `examples`.
        earlier: Those of the earlier experiment.
        share: Weight of an earlier decision beside an own one.
        at: The moment.
    """
    names = inputs.feature_names(own)
    if not names:
        with history.as_of(at) as snapshot:
            names = inputs.feature_names(features.build(snapshot))
    return warm.pooled(own, earlier, share, names)


def warm_share(
    history: History, config: Settings, at: datetime, days: int | None
) -> tuple[float | None, str]:
    """Give how much an earlier decision weighs, as set or as chosen last, and why; None where neither is.

    Args:
        history: Of this workspace.
        config: May set it.
        at: Choices by then count.
        days: For how long a choice holds; for ever if None.
    """
    if config.models.warm_share is not None:
        return config.models.warm_share, "as set"
    if history.has("warm_starts"):
        chosen = (
            "select * from warm_starts where is_chosen and learnt_at <= $at order by learnt_at desc limit 1"
        )
        for last in history.sql(chosen, {"at": at}).to_pylist():
            if days is None or last["learnt_at"] > at - timedelta(days=days):
                return last["share"], f"as chosen on {last['learnt_at']:%Y-%m-%d}"
    return None, ""


def candidates(history: History) -> compare.Logged | None:
    """Give the look-up of all candidates' probabilities of decisions; None where they were not logged."""
    if not history.has("choices"):
        return None

    def logged(decision_id: pa.ChunkedArray) -> pa.Table:
        with history.connection() as connection:
            connection.register("asked", pa.table({"decision_id": decision_id}))
            return connection.sql(_CANDIDATES).to_arrow_table()

    return logged


def train(
    workspace: Path,
    at: datetime,
    *,
    alias: str | None = None,
    models: Models | None = None,
    rows: pa.Table | None = None,
    has_open: bool = False,
    compared: bool = False,
    progress: Progress | None = None,
) -> TrainReport:
    """Fit the scorer on what had closed by a moment, log it and register it.

    The first version becomes the champion, a later one the challenger: only `pipelines.promote` puts it in
    the champion's place, on record. Training again on the same examples gives the same model, which is not
    registered twice, whichever version it is, and no alias moves; if it was not compared before and now is,
    its card and run are completed. The newest version, if nothing names it, is one whose training was stopped
    before it was named: it is named now.

    Args:
        workspace: Folder of the workspace.
        at: Outcomes that had closed by then count.
        alias: Give the version this alias and no other.
        models: How to fit, instead of the workspace's settings.
        rows: Examples to fit on, instead of those that had closed.
        has_open: Whether `rows` hold decisions that were still open: then the version is later judged only on
            decisions made since.
        compared: Whether to hold the model against the stack of learners and write what came of it into the
            model card; takes some ten times as long as the model itself.
        progress: Where to report.

    Raises:
        MissingError: when no decision has closed yet.
        DataError: when there are too few examples to learn from.
    """
    progress = progress or silent()
    config = settings.read(workspace)
    tracking.claim(config, workspace)
    catalog = settings.read_catalog(workspace, config)
    step = progress.step("training", total=5)
    rows = _known(workspace, config, catalog, at) if rows is None else rows
    step(1)
    seed = config.workspace.seed
    asked = config.models if models is None else models
    study, window = study_of(workspace), config.reward.window_days
    heard = search_told(progress, asked, "responses")
    chosen, tuned = tuning.tuned(rows, catalog, asked, seed, study, heard, window_days=window)
    scorer = Scorer.fit(rows, catalog, chosen, seed)
    step(2)
    same = _same(tracking.policy_name(config), scorer.model_id) if alias is None else None
    if same is not None and not (compared and tracking.IS_COMPARED not in same.tags):
        step(2)
        return _report(scorer, same.registered, same.alias, is_new=False)
    later = latest.judge(rows, catalog, chosen, seed, window)
    scorer = replace(scorer, report=replace(scorer.report, metrics=scorer.report.metrics | later))
    choices = candidates(History.read(workspace))
    if compared:
        heard = search_told(progress, asked, "effects")
        search = tuning.Search(asked, seed, study, heard)
        comparison = compare.compare(scorer, rows, catalog, chosen, seed, search, choices)
        comparison = comparison.with_stability(wording.under_resampling(rows, catalog, chosen, seed))
    else:
        comparison = compare.unfitted(scorer, rows, choices)
    told = comparison if compared else None
    step(1)
    trials = tuning.trials(rows, catalog, asked, seed, study, window_days=window)
    first = _registered(tracking.policy_name(config), tracking.CHAMPION) is None
    logged = _Logged(
        scorer, rows, config.model_copy(update={"models": chosen}), tuned, trials, comparison, has_open,
        _limits(asked, config.models, rows),
    )  # fmt: skip
    if same is not None:
        _log(replace(logged, trials=[]), datetime.fromisoformat(same.tags["at"]), same.registered)
        step(1)
        return _report(scorer, same.registered, same.alias, is_new=False, comparison=told)
    registered = _log(logged, at)
    named = alias or (tracking.CHAMPION if first else tracking.CHALLENGER)
    tracking.promote(registered, named)
    step(1)
    report = _report(scorer, registered, named, is_new=True, comparison=told)
    for row in snapshot_examples.suspects(rows).to_pylist():
        suspect = f"suspect: {row['feature']} nearly tells the response (AUC, by {row['by']})"
        report.rows.append({"measure": suspect, "value": row["separates"]})
    return report


def digest(rows: pa.Table) -> str:
    """Say of which examples something is and what came of them, whatever their features, as 16 digits."""
    names = ("decision_id", "customer_id", "as_of", "treatment_id", "is_response")
    known = [rows[name].cast(pa.string()).to_pylist() for name in names if name in rows.column_names]
    known.append([str(flag) for flag in immature.closed(rows).tolist()])
    digest = hashlib.sha256()
    for row in sorted(zip(*known)):
        digest.update("|".join(map(str, row)).encode() + b"\n")
    return digest.hexdigest()[:16]


def _registered(name: str, alias: str) -> tuple[tracking.Registered, Mapping[str, str]] | None:
    try:
        return tracking.find(name, alias)
    except MissingError:
        return None


class _Same(NamedTuple):
    registered: tracking.Registered
    tags: Mapping[str, str]
    alias: str


def _same(policy: str, model_id: str) -> _Same | None:
    # The version that is this very model: the champion, the challenger, or else the latest; not from the bin.
    known = tracking.versions(policy)
    same = [row for row in known if row["tags"].get("model_id") == model_id and not row["is_deleted"]]
    if not same:
        return None
    order = (tracking.CHAMPION, tracking.CHALLENGER)
    named = [(alias, row) for alias in order for row in same if alias in row["alias"].split(", ")]
    alias, row = named[0] if named else (same[0]["alias"], same[0])
    registered = tracking.Registered(policy, row["version"], row["run_id"])
    has_champion = any(tracking.CHAMPION in one["alias"].split(", ") for one in known)
    if not has_champion or (not alias and row is known[0]):
        alias = tracking.CHALLENGER if has_champion else tracking.CHAMPION
        tracking.promote(registered, alias)
    return _Same(registered, row["tags"], alias)


@dataclass(frozen=True)
class _Logged:
    scorer: Scorer
    rows: pa.Table
    config: Settings
    tuned: Mapping[str, float]
    trials: list[dict[str, Any]]
    comparison: compare.Comparison
    has_open: bool
    limits: tuple[str, ...] = ()


def search_told(progress: Progress, asked: Models, what: str) -> Callable[[float], None] | None:
    """Give a search a bar of its own, where there is one."""
    trials = asked.tune_trials
    return progress.step(f"searching the capacity for {what}", total=trials) if trials else None


def study_of(workspace: Path) -> Path:
    """Name the file of a workspace's searches, which go on where they stopped."""
    return workspace / "tuning.db"


def _log(logged: _Logged, at: datetime, stands: tracking.Registered | None = None) -> tracking.Registered:
    # Registers a new version; of one that stands, completes what is known.
    scorer, rows, config, comparison = logged.scorer, logged.rows, logged.config, logged.comparison
    params = {
        **config.models.model_dump(),
        **{f"tuned_{name}": value for name, value in logged.tuned.items()},
        "at": at.isoformat(),
        "seed": config.workspace.seed,
        "n_features": len(scorer.names),
        "treatments": len(scorer.coding.treatment_ids),
        "n_earlier": warm.counted(rows)[0],
    }
    tags = {"model_id": scorer.model_id, "config_hash": config.config_hash, "at": at.isoformat()}
    tags |= {tracking.MEASURED_ON: digest(rows)}
    tags |= {tracking.HAS_OPEN: "true"} if logged.has_open else {}
    compared = {}
    if comparison.gate is not None:
        compared = {tracking.IS_COMPARED: "true", tracking.GATE: str(comparison.gate.rule)}
        if compare.caveat(comparison.findings):
            compared[tracking.GATE] += " (only if features precede the treatment: see the card)"
    found = {f"{k}.html": draw(scorer.report.tables[k]) for k, draw in _FIGURES.items()}
    more: dict[str, pa.Table] = {}
    stability = {f"reasons_{k}": v for k, v in comparison.stability.items()}
    trials = logged.trials
    if comparison.tuned is not None:
        params |= {f"stack_{name}": value for name, value in comparison.tuned.trees.items()}
        trials = trials + [{**trial, "measure": "dr_loss"} for trial in comparison.tuned.trials]
    if comparison.gate is not None:
        more = {"candidates": comparison.candidates, "average_effects": comparison.averages}
        found["stack_deciles.html"] = plots.uplift_deciles(comparison.deciles)
    sample = rows.take(pa.array(_spread(rows.num_rows, explain.MAX_ROWS)))
    explained = explain.explain(scorer, sample)
    found |= {"shap.png": explain.beeswarm(explained), "dependence.png": explain.dependence(explained)}
    found["shap_uplift.png"] = explain.beeswarm(explained, "uplift")
    more["reasons"] = _reasons(scorer, sample.slice(0, _EXPLAINED))
    with tempfile.TemporaryDirectory() as folder:
        scorer.save(Path(folder) / "scorer")
        training = tracking.Training(
            name=tracking.policy_name(config),
            run_name=f"train {at:%Y-%m-%d}",
            folder=Path(folder) / "scorer",
            loader=_LOADER,
            example=rows.slice(0, 5),
            examples=rows,
            params=params,
            metrics={**scorer.report.metrics, **stability, "n_examples": float(rows.num_rows)},
            tags=tags | compared,
            figures=found,
            tables={**scorer.report.tables, **more},
            texts={"card.md": card.card(scorer, rows, comparison, params, logged.limits)},
            trials=trials,
        )
        if stands is None:
            return tracking.log_training(training)
        # How and when it was trained stays as it was told then.
        tracking.amend(stands, replace(training, tags=compared))
        return stands


def _reasons(scorer: Scorer, rows: pa.Table) -> pa.Table:
    # Examples of reasons in words, for whoever looks at the run; without the id of the decision, since a run
    # stays when its customer asks to be forgotten.
    words = {f.name: wording.Words(f.doc, f.unit) for f in features.FEATURES}
    found = wording.contributions(scorer, rows, rows["treatment_id"].to_pylist())
    said = ["; ".join(sentences) for sentences in wording.reasons(found, words)]
    return rows.select(["treatment_id"]).append_column("reasons", [said])


def _spread(n: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _limits(asked: Models, standing: Models, rows: pa.Table) -> tuple[str, ...]:
    out = []
    # What is not the workspace's own was chosen on the latest decisions, by `nba.models.belief`.
    if asked.half_life_days != standing.half_life_days:
        days = asked.half_life_days
        memory = "without end" if days is None else f"of {days:g} days half-life"
        out.append(
            f"A memory {memory} was chosen on the latest decisions at the time: what is measured on the"
            " latest decisions is not quite unseen."
        )
    n, share = warm.counted(rows)
    if n:
        out.append(
            f"{n:,} of the {rows.num_rows:,} examples are of an earlier experiment and weigh {share:g} of an"
            " own one each: what is measured is measured on both."
        )
    return tuple(out)


def _report(
    scorer: Scorer,
    registered: tracking.Registered,
    alias: str,
    *,
    is_new: bool,
    comparison: compare.Comparison | None = None,
) -> TrainReport:
    wanted = {
        "n": "examples",
        "base_rate": "response rate",
        "auc": "AUC",
        "log_loss": "log loss",
        "log_loss_constant": "log loss of the base rate",
        "ece": "calibration error (ECE)",
        "latest_log_loss": "log loss of the latest decisions, by a model of earlier ones",
        "latest_ece": "calibration error of the same",
        "qini": "Qini coefficient",
        "qini_lower": "Qini, lower 95%",
        "qini_upper": "Qini, upper 95%",
        "uplift_spread": "spread of the uplift (standard deviation)",
    }
    known = scorer.report.metrics
    wanted = {k: text for k, text in wanted.items() if k in known or not k.startswith("latest_")}
    rows: list[dict[str, Any]] = [{"measure": text, "value": known.get(k)} for k, text in wanted.items()]
    rows.append({"measure": "alias", "value": alias})
    policy_id = f"{registered.name}@{registered.version}"
    return TrainReport(policy_id, scorer.model_id, alias, is_new, rows, scorer.report, comparison)
