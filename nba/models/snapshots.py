"""Who will buy soon: a classifier over snapshots of the past, judged on the last of them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.base import clone

from nba import metrics
from nba.errors import MissingError
from nba.models import inputs, response, tuning
from nba.models.classifier import ResponseClassifier
from nba.models.tuning import FoundResponses, Search
from nba.settings import Models

Array = NDArray[np.float64]

_FILE = "snapshots.json"


@dataclass(frozen=True)
class Snapshots:
    """A model of purchases from snapshots of the past, and how well it did on the last of them.

    Attributes:
        model: Fitted on all cut-offs.
        names: Its features, in order.
        metrics: Of the last cut-off, by a model that has seen only earlier ones: auc, pr_auc, log_loss,
            log_loss_constant, ece, calibration_slope, base_rate, n.
        calibration: Table bin, n, predicted, observed, of the same.
        tuned: The search of its capacity; None if there was none, or once it was saved.
    """

    model: ResponseClassifier
    names: tuple[str, ...]
    metrics: dict[str, float]
    calibration: pa.Table
    tuned: FoundResponses | None = None

    def scores(self, features: pa.Table) -> Array:
        """Give the chance of a purchase within the horizon, shape (n,); features that lack are unknown."""
        return np.asarray(self.model.predict_proba(inputs.matrix(features, self.names))[:, 1])

    def wide(self, features: pa.Table) -> pa.Table:
        """Score for serving: one row per customer, column p_response."""
        return pa.table({"p_response": self.scores(features)})

    @property
    def model_id(self) -> str:
        """Hash of the content, 16 hexadecimal digits."""
        texts = self.model.texts()
        parts = [json.dumps(self.names), *(texts[name] for name in sorted(texts))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write the model, its features and its measures."""
        self.model.save(folder)
        state = {"names": self.names, "metrics": self.metrics, "calibration": self.calibration.to_pydict()}
        (folder / _FILE).write_text(json.dumps(state), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Snapshots":
        """Read a saved model.

        Raises:
            MissingError: when the folder holds none.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise MissingError(
                f"{path} does not exist; expected a saved model of purchases", "Train it again."
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        model = ResponseClassifier.load(Path(folder))
        return cls(model, tuple(state["names"]), state["metrics"], pa.table(state["calibration"]))


def fit(
    examples: pa.Table, seed: int, settings: Models | None = None, search: Search | None = None
) -> Snapshots:
    """Learn the chance of a purchase in the time after a snapshot, judged on the last snapshot.

    Args:
        examples: Columns customer_id, as_of, is_response and f_*; several as_of, whose horizons do not
            reach beyond what is known.
        seed: Of the trees.
        settings: `monotone` counts; a sign leaves the trees alone to decide.
        search: How to search the capacity of the trees, on the earlier snapshots; the default's if None or
            without trials.

    Returns:
        The model fitted on all snapshots, with metrics of the last by a model of the earlier.

    Raises:
        DataError: when nobody or everybody bought, or a sign is given for a feature that is not there.
    """
    names = inputs.feature_names(examples)
    signs = response.signs(names, settings) if settings is not None and settings.monotone else None
    X = inputs.matrix(examples, names)
    y = examples["is_response"].to_numpy().astype(int)
    as_of = examples["as_of"].cast(pa.int64()).to_numpy()
    last = as_of == as_of.max()
    blank = ResponseClassifier(monotone=signs, random_state=seed)
    tuned = None
    if search is not None and search.settings.tune_trials:
        tuned = tuning.responses(blank, X[~last], y[~last], search, at=as_of[~last])
        blank.set_params(**tuned.parameters)
    judged = clone(blank).fit(X[~last], y[~last], at=as_of[~last])
    predicted = judged.predict_proba(X[last])[:, 1]
    final = clone(blank).fit(X, y, at=as_of)
    target = y[last].astype(float)
    found = metrics.classification(target, predicted)
    return Snapshots(final, names, found, metrics.calibration(target, predicted), tuned)
