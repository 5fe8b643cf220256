"""The served model: one joint object that scores all treatments of a customer.

It holds the response model, the effect model and the shrunk margin of a customer's responses; it is
fitted on examples, saved as text and arrays (no pickle), and named by the hash of its content.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nba.catalog import NONE, Catalog
from nba.errors import DataError, MissingError, listed
from nba.models import calibration, crossfit, immature, inputs, response, trial, uplift
from nba.models.hierarchy import Hierarchy, Layout
from nba.models.inputs import Coding
from nba.models.margin import Margin, fit_margin, margin_by_action
from nba.models.report import Logged, Report, judge
from nba.models.response import Response
from nba.models.uplift import Learnt, Rows, Scaling, Uplift
from nba.settings import Models

Array = NDArray[np.float64]
Whole = NDArray[np.int64]

_CAP = 240_000  # examples that training reads; of more, a sample is taken and weighted
_MOST_COEFFICIENTS = 12_000  # of the effects; their covariance takes 1.2 GB then
_FORMAT = 1
_SHORT = "the examples do not suffice to learn from"


@dataclass(frozen=True)
class Scores:
    """What the models believe of n customers and k treatments (column 0 is `none`).

    Attributes:
        p_response: Chance of a response within the window, shape (n, k).
        uplift: Change of that chance against no contact, shape (n, k); column 0 is 0.
        uplift_se: Standard error of the uplift, shape (n, k); column 0 is 0.
        margin_per_response: Expected margin of a response of the customer to each treatment, money, shape
            (n, k).
    """

    p_response: Array
    uplift: Array
    uplift_se: Array
    margin_per_response: Array


@dataclass(frozen=True)
class Scorer:
    """The joint model; see the module.

    Attributes:
        names: Features it reads, in order.
        coding: Treatments it was fitted on.
        model_id: Hash of its content, 16 hexadecimal digits.
    """

    names: tuple[str, ...]
    coding: Coding
    response: Response
    effect: Uplift
    margin: Margin
    report: Report = field(default_factory=Report)

    @classmethod
    def fit(cls, examples: pa.Table, catalog: Catalog, settings: Models, seed: int) -> "Scorer":
        """Learn from decisions whose outcome is known.

        Args:
            examples: The `examples` table; treatments that the catalog no longer has are left out.
            catalog: Fixes the treatments and their columns.
            settings: Folds, capacity and the half-life of examples.
            seed: Of folds and trees.

        Raises:
            DataError: when there are too few examples, responses, or decisions without contact to learn from.
        """
        # Threads of the linear algebra would wait for each other, and their sums would differ by machine.
        with threadpool_limits(limits=1, user_api="blas"):
            return cls._fit(examples, catalog, settings, seed)[0]

    @classmethod
    def by_capacity(
        cls, examples: pa.Table, catalog: Catalog, settings: Models, seed: int
    ) -> dict[str, "Scorer"]:
        """Give what `fit` would give with each capacity of effects, without reports, for the work of one fit.

        Args:
            examples: As of `fit`.
            catalog: As of `fit`.
            settings: As of `fit`; their own capacity does not matter.
            seed: As of `fit`.

        Raises:
            DataError: when there are too few examples or responses to learn from.
        """
        with threadpool_limits(limits=1, user_api="blas"):
            one, learnt = cls._fit(examples, catalog, settings, seed)
        return {
            capacity: replace(one, effect=replace(one.effect, weights=weights), report=Report())
            for capacity, weights in learnt.weights.items()
        }

    @classmethod
    def _fit(
        cls, examples: pa.Table, catalog: Catalog, settings: Models, seed: int
    ) -> tuple["Scorer", Learnt]:
        coding = Coding.of(catalog)
        column = coding.columns(examples["treatment_id"].to_pylist())
        kept = thin(column, np.random.default_rng(seed))
        rows = examples.take(pa.array(kept.rows))
        column = column[kept.rows]
        if unknown := rows["is_response"].null_count:
            faults = [f"is_response: {unknown} of {rows.num_rows} values are missing"]
            raise listed(faults, _SHORT, "Leave out decisions whose outcome is unknown.")
        y = rows["is_response"].to_numpy().astype(float)
        if faults := [*response.check_responses(y), *check_contacts(column)]:
            raise listed(faults, _SHORT, "Close more decisions first.")
        names = inputs.feature_names(rows)
        check_size(len(names), coding)
        X = inputs.matrix(rows, names)
        weight, sampled = kept.weight * age_weight(rows, settings.half_life_days), kept.weight
        if "weight" in rows.column_names:
            counts = rows["weight"].fill_null(1.0).to_numpy()
            weight, sampled = weight * counts, sampled * counts
        fold = crossfit.folds(rows["customer_id"], settings.folds, seed)
        paired = pair(column, len(coding.treatment_ids), np.random.default_rng(seed + 1))
        codes = coding.codes()
        params = response.parameters(settings, seed)
        if settings.monotone:
            params["monotone_constraints"] = response.signs((*names, *coding.names), settings)
        given = codes[column], codes[paired], y, weight, fold, params, settings.trees
        day = rows["as_of"].cast(pa.int64()).to_numpy() / 86400e6
        timed = settings.validation == "time"
        parts = response.later(day, y, _gap(settings)) if timed else ()
        crossed = response.fit(X, *given, inputs.customers(rows), parts)
        arrays = Rows(X, column, paired, y, weight, fold)
        learnt = uplift.fit(arrays, crossed, coding, settings, seed)
        whole = immature.closed(rows)  # what came of the others is not all known: they have no margin
        margin = fit_margin(rows.filter(pa.array(whole)), catalog.cost[column[whole]])
        margin = replace(margin, by_action=margin_by_action(catalog, column))
        crossed = response.with_rates(crossed, column, y, weight, fold, coding)
        report = judge(arrays, crossed, learnt, names, Logged.of(rows, sampled), seed)
        report.metrics["margin_factor"] = float(margin.factor)
        return cls(names, coding, crossed.model, learnt.model, margin, report), learnt

    def scores(self, features: pa.Table, catalog: Catalog | None = None) -> Scores:
        """Score all treatments of customers.

        Args:
            features: The `features` table, n rows.
            catalog: Gives the columns; the catalog of the fit if None. A treatment that is new since
                borrows from its action and channel, with a wide standard error.
        """
        treatments = self.coding if catalog is None else Coding.of(catalog)
        X = inputs.matrix(features, self.names)
        p_response = self.response.predict(X, self.coding.codes(treatments))
        mean, se = self.effect.predict(X, p_response, treatments)
        zero = np.zeros((len(X), 1))
        return Scores(
            self.response.at_rates(p_response, treatments),
            # Rounded, so that a customer scores the same in whatever batch: sums depend on shapes.
            np.hstack([zero, np.round(np.clip(mean, -1, 1), 12)]),
            np.hstack([zero, np.round(se, 12)]),
            self.margin.of(features, treatments),
        )

    def wide(self, features: pa.Table) -> pa.Table:
        """Score for serving: one row per customer, columns `p_response:<treatment>`, and so on.

        Returns:
            Columns p_response (0-1), uplift (change of it) and value (money before contact costs) of each
            treatment, and margin_per_response (money, of a usual response).
        """
        found = self.scores(features)
        value = found.uplift * found.margin_per_response
        columns: dict[str, Array] = {}
        for j, name in enumerate(("none", *self.coding.treatment_ids)):
            parts = (("p_response", found.p_response), ("uplift", found.uplift), ("value", value))
            columns |= {f"{part}:{name}": matrix[:, j] for part, matrix in parts}
        return pa.table({**columns, "margin_per_response": found.margin_per_response[:, 0]})

    @property
    def model_id(self) -> str:
        """Hash of the content."""
        digest = hashlib.sha256()
        meta, arrays = _meta(self), _arrays(self)
        digest.update(json.dumps(meta, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
        for booster in (self.response.booster, self.effect.trees):
            digest.update(booster.model_to_string().encode() if booster else b"-")
        return digest.hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the model: `scorer.json`, `arrays.npz`, trees as LightGBM text, `report.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scorer.json").write_text(json.dumps(_meta(self), indent=1), encoding="utf-8")
        np.savez_compressed(folder / "arrays.npz", **_arrays(self))  # type: ignore[arg-type]
        (folder / "response.txt").write_text(self.response.booster.model_to_string(), encoding="utf-8")
        if self.effect.trees is not None:
            (folder / "effect.txt").write_text(self.effect.trees.model_to_string(), encoding="utf-8")
        tables = {name: table.to_pydict() for name, table in self.report.tables.items()}
        report = {"metrics": self.report.metrics, "tables": tables}
        (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Scorer":
        """Read a saved model.

        Raises:
            MissingError: when the folder holds none.
            DataError: when it was written by another format.
        """
        path = Path(folder) / "scorer.json"
        if not path.is_file():
            raise MissingError(f"{path} does not exist; expected a saved scorer", "Run `nba train` first.")
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta.get("format") != _FORMAT:
            raise DataError(
                f"{path} has format {meta.get('format')}; expected {_FORMAT}", "Train the model again."
            )
        return _read(Path(folder), meta)


def _gap(settings: Models) -> int:
    if settings.validation_gap_days is None:
        raise DataError(
            "models.validation is 'time' without validation_gap_days; expected days, the reward window",
            "Settings of a workspace fill it in: give it to `Models` where there is none.",
        )
    return settings.validation_gap_days


def check_contacts(column: Whole) -> list[str]:
    """Name what is missing to tell what contact changes: decisions without it.

    Args:
        column: Treatment of each row, 0 is `none`, shape (n,).
    """
    n = int((column == 0).sum())
    if n >= trial.LEAST_PER_ARM:
        return []
    return [
        f"{n} of {len(column)} examples are without contact (treatment {NONE!r}); expected"
        f" {trial.LEAST_PER_ARM} or more: what contact changes shows only beside them, so hold some out"
    ]


def check_size(n_features: int, coding: Coding) -> None:
    """Refuse what the effects' hierarchy could not hold in memory.

    Raises:
        DataError: when there are too many features for so many actions and channels.
    """
    size = Layout(coding, n_features + 2).size
    if size > _MOST_COEFFICIENTS:
        raise DataError(
            f"{n_features:,} features, {len(coding.action_names)} actions and {len(coding.channel_names)}"
            f" channels make {size:,} coefficients; expected {_MOST_COEFFICIENTS:,} or fewer",
            "Leave features out, or actions that are no longer proposed.",
        )


@dataclass(frozen=True)
class Thinned:
    """Rows kept for training and the weight that makes up for the others.

    Attributes:
        rows: Row numbers, sorted.
        weight: Shape (rows,).
    """

    rows: Whole
    weight: Array


def thin(column: Whole, rng: np.random.Generator, cap: int = _CAP) -> Thinned:
    """Keep at most `cap` rows: all treated ones if they fit, and a sample of `none`, weighted.

    Args:
        column: Treatment of each row, 0 is `none`, -1 unknown (left out); shape (n,).
        rng: Chooses the sample.
        cap: Most rows to keep.

    Example:
        >>> kept = thin(np.array([0, 0, 0, 0, 1, -1]), np.random.default_rng(0), cap=4)
        >>> len(kept.rows), float(kept.weight.sum())
        (4, 5.0)
    """
    parts, weights = [], []
    for numbers, room in ((np.flatnonzero(column > 0), cap // 2), (np.flatnonzero(column == 0), cap // 2)):
        other = int((column >= 0).sum()) - len(numbers)
        room = max(room, cap - other)
        chosen = numbers if len(numbers) <= room else rng.choice(numbers, room, replace=False)
        parts.append(chosen)
        weights.append(np.full(len(chosen), len(numbers) / max(len(chosen), 1)))
    rows = np.concatenate(parts)
    order = np.argsort(rows)
    return Thinned(rows[order], np.concatenate(weights)[order])


def pair(column: Whole, n_treatments: int, rng: np.random.Generator) -> Whole:
    """Pair each `none` row with a treatment drawn as often as treatments were given.

    Treated rows keep their own. Rows of both groups then have a (customer, treatment) by whose predicted
    effect they can be ranked, whether it was given or not.
    """
    given = column[column > 0]
    pool = given if len(given) else np.arange(1, n_treatments + 1)
    return np.where(column > 0, column, rng.choice(pool, len(column)))


def age_weight(examples: pa.Table, half_life_days: float | None) -> Array:
    """Weigh old examples less: half at an age of `half_life_days` before the newest; shape (n,)."""
    if half_life_days is None or not examples.num_rows:
        return np.ones(examples.num_rows)
    at = examples["as_of"].cast(pa.int64()).to_numpy() / 86400e6
    return np.asarray(0.5 ** ((at.max() - at) / half_life_days))


def _meta(scorer: Scorer) -> dict[str, Any]:
    rates = scorer.response.rates
    return {
        "format": _FORMAT,
        "features": list(scorer.names),
        "treatment_ids": list(scorer.coding.treatment_ids),
        "action_ids": list(scorer.coding.action_ids),
        "channels": list(scorer.coding.channels),
        "calibration": {"kind": scorer.response.kind, **calibration.state(scorer.response.calibrator)},
        "scales": [scorer.effect.constant.scale, scorer.effect.odds.scale, scorer.effect.linear.scale],
        "margin": [scorer.margin.population, scorer.margin.factor],
        **({"margin_by_action": dict(by_action)} if (by_action := scorer.margin.by_action) else {}),
        "has_effect_trees": scorer.effect.trees is not None,
        **({} if rates is None else {"rates_scale": rates.scale}),
    }


def _arrays(scorer: Scorer) -> dict[str, Array]:
    effect = scorer.effect
    out = {
        "center": effect.scaling.center,
        "spread": effect.scaling.scale,
        "weights": effect.weights,
        "response_mean": effect.response_mean,
    }
    parts = {"constant": effect.constant, "odds": effect.odds, "linear": effect.linear}
    if scorer.response.rates is not None:
        parts["rates"] = scorer.response.rates
    for name, model in parts.items():
        out[f"{name}_mean"] = model.mean
        out[f"{name}_covariance"] = model.covariance
        out[f"{name}_variance"] = model.variance
    return out


def _read(folder: Path, meta: dict[str, Any]) -> Scorer:
    coding = Coding(tuple(meta["treatment_ids"]), tuple(meta["action_ids"]), tuple(meta["channels"]))
    names = tuple(meta["features"])
    with np.load(folder / "arrays.npz", allow_pickle=False) as data:
        a = {name: data[name] for name in data.files}

    def linear(name: str, q: int, scale: float) -> Hierarchy:
        mean, covariance, variance = (a[f"{name}_{part}"] for part in ("mean", "covariance", "variance"))
        return Hierarchy(Layout(coding, q), mean, covariance, variance, scale)

    def trees(file: str) -> lgb.Booster:
        return lgb.Booster(model_str=(folder / file).read_text(encoding="utf-8"))

    effect = Uplift(
        coding,
        Scaling(a["center"], a["spread"]),
        linear("constant", 1, meta["scales"][0]),
        linear("odds", 1, meta["scales"][1]),
        linear("linear", len(names) + 2, meta["scales"][2]),
        trees("effect.txt") if meta["has_effect_trees"] else None,
        a["weights"],
        a["response_mean"],
    )
    # Models of before the rates have none.
    rates = linear("rates", 1, meta["rates_scale"]) if "rates_scale" in meta else None
    told = meta["calibration"]
    if isinstance(told, list):  # models of before the choice have a line
        told = {"kind": "platt", "intercept": told[0], "slope": told[1]}
    kind = told.pop("kind")
    classifier = Response(trees("response.txt"), len(names), kind, calibration.restored(kind, told), rates)
    report = Report()
    if (folder / "report.json").is_file():
        raw = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        report = Report(raw["metrics"], {n: pa.table(t) for n, t in raw["tables"].items()})
    population, factor = meta["margin"]
    margin = Margin(population, factor, meta.get("margin_by_action", {}))
    return Scorer(names, coding, classifier, effect, margin, report)
