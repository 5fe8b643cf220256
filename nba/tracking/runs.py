"""What is written: trainings with their figures and models, single runs, models that MLflow serves."""

import importlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from nba.tracking.registry import Registered, register
from nba.tracking.store import experiment_id, opened

_ROWS = 2_000  # of a data set whose digest is logged
_SCRIPT = """\
from mlflow.models import set_model

from nba.tracking import pyfunc

set_model(pyfunc({loader!r}))
"""


@dataclass(frozen=True)
class Training:
    """What is logged of one training.

    Attributes:
        name: The registered policy.
        run_name: How the run is called.
        folder: The saved model.
        loader: "module:Class" whose `load(folder)` gives an object with `wide(features) -> pa.Table`.
        example: A few rows of the `features` table: the input example.
        examples: The rows trained on, for the data set's digest and schema.
        figures: File name (`.html` for plotly, `.png` for matplotlib) to figure.
        tables: File name to a small table, logged as JSON.
        texts: File name to a text, such as the model card; `card.md` describes the version as well.
        trials: Trials of a search, each with `params` and `loss` (None if it was pruned): nested runs.
    """

    name: str
    run_name: str
    folder: Path
    loader: str
    example: pa.Table
    examples: pa.Table
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[Mapping[str, Any]] = ()


def log_training(training: Training) -> Registered:
    """Log one training as a run and register its model as the next version of the policy."""
    with opened() as (mlflow, store):
        experiment = experiment_id(mlflow, store)
        with mlflow.start_run(experiment_id=experiment, run_name=training.run_name) as run:
            mlflow.set_tags(dict(training.tags))
            mlflow.log_params(dict(training.params))
            sample = training.examples.slice(0, _ROWS).to_pandas()
            mlflow.log_input(mlflow.data.from_pandas(sample, name="examples"), context="training")
            _log_found(mlflow, training)
            _log_trials(mlflow, training.trials, experiment)
            version = _log_model(mlflow, training)
        _describe(mlflow, training, version)
        return Registered(training.name, version, run.info.run_id)


def amend(registered: Registered, training: Training) -> None:
    """Write what was found later into the run of a version that stands, and into the version's card.

    Measures, figures, tables, texts and tags are written, trials and parameters that it lacks added; its
    model, data set and parameters stay as they are.
    """
    with opened() as (mlflow, store):
        known = mlflow.MlflowClient().get_run(registered.run_id).data.params
        with mlflow.start_run(run_id=registered.run_id):
            mlflow.log_params({k: v for k, v in training.params.items() if k not in known})
            _log_found(mlflow, training)
            _log_trials(mlflow, training.trials, experiment_id(mlflow, store))
        _describe(mlflow, training, registered.version)


def log_run(
    run_name: str,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    figures: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a run without a registered model, and return its id."""
    with opened() as (mlflow, store):
        experiment = experiment_id(mlflow, store)
        with mlflow.start_run(experiment_id=experiment, run_name=run_name) as run:
            mlflow.set_tags(dict(tags or {}))
            mlflow.log_params(dict(params))
            mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})
            for name, figure in (figures or {}).items():
                mlflow.log_figure(figure, f"figures/{name}")
        return str(run.info.run_id)


def pyfunc(loader: str) -> Any:
    """Make the MLflow model that serves a saved scorer (used by the logged model's script).

    Args:
        loader: "module:Class" whose `load(folder)` gives an object with `wide(features) -> pa.Table`.
    """
    import pandas as pd
    from mlflow.pyfunc.model import PythonModel, PythonModelContext

    class PolicyModel(PythonModel):
        """Features in; p_response, uplift and value of every treatment out."""

        def load_context(self, context: PythonModelContext) -> None:
            self._scorer = _load(loader, Path(context.artifacts["scorer"]))

        def predict(
            self,
            context: PythonModelContext,  # noqa: ARG002
            model_input: pd.DataFrame,
            params: dict[str, Any] | None = None,  # noqa: ARG002
        ) -> pd.DataFrame:
            return self._scorer.wide(pa.Table.from_pandas(model_input, preserve_index=False)).to_pandas()

    return PolicyModel()


def save_policy(target: Path, loader: str, folder: Path, example: pa.Table) -> None:
    """Save something that answers tables as an MLflow model that any MLflow tool can serve.

    The model is code (a script that names the loader) and the folder's files: nothing is pickled.

    Args:
        target: Folder to make.
        loader: "module:Class" whose `load(folder)` gives an object with `wide(table) -> pa.Table`.
        folder: What the loader reads.
        example: A few rows to ask with; they fix the signature.
    """
    served = _load(loader, folder).wide(example)
    with opened() as (mlflow, _), _packed(loader, folder) as packed:
        mlflow.pyfunc.save_model(
            str(target),
            **packed,
            signature=mlflow.models.ModelSignature(*(_typed(mlflow, table) for table in (example, served))),
            pip_requirements=["lightgbm", "numba", "numpy", "pyarrow", "pydantic", "scipy"],
        )


def _log_found(mlflow: ModuleType, training: Training) -> None:
    mlflow.log_metrics({k: v for k, v in training.metrics.items() if v == v})
    for name, figure in training.figures.items():
        mlflow.log_figure(figure, f"figures/{name}")
    for name, table in training.tables.items():
        mlflow.log_dict(table.to_pydict(), f"tables/{name}.json")
    for name, text in training.texts.items():
        mlflow.log_text(text, name)


def _describe(mlflow: ModuleType, training: Training, version: int) -> None:
    client = mlflow.MlflowClient()
    if "card.md" in training.texts:
        client.update_model_version(training.name, str(version), training.texts["card.md"])
    for key, value in training.tags.items():
        client.set_model_version_tag(training.name, str(version), key, value)


def _log_trials(mlflow: ModuleType, trials: Sequence[Mapping[str, Any]], experiment: str) -> None:
    for number, trial in enumerate(trials):
        with mlflow.start_run(experiment_id=experiment, run_name=f"trial {number}", nested=True):
            mlflow.log_params(dict(trial["params"]))
            if trial["loss"] is None:
                mlflow.set_tag("pruned", "true")
            else:
                mlflow.log_metric(trial.get("measure", "log_loss"), float(trial["loss"]))


def _log_model(mlflow: ModuleType, training: Training) -> int:
    names = [name for name in training.example.column_names if name.startswith("f_")]
    example = training.example.select(names)
    served = _load(training.loader, training.folder).wide(example)
    signature = mlflow.models.ModelSignature(_schema(mlflow, example), _schema(mlflow, served))
    with _packed(training.loader, training.folder) as packed:
        info = mlflow.pyfunc.log_model(
            name="policy",
            **packed,
            signature=signature,
            input_example=example.to_pandas(),
            pip_requirements=["lightgbm", "numpy", "pyarrow"],
        )
    return register(mlflow, training.name, info)


@contextmanager
def _packed(loader: str, folder: Path) -> Iterator[dict[str, Any]]:
    # The model as code that names the loader, and a copy of its files under the name that the code asks for.
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "policy.py"
        script.write_text(_SCRIPT.format(loader=loader), encoding="utf-8")
        scorer = shutil.copytree(folder, Path(place) / "scorer")
        yield {"python_model": str(script), "artifacts": {"scorer": str(scorer)}}


def _schema(mlflow: ModuleType, table: pa.Table) -> Any:
    column = mlflow.types.ColSpec
    return mlflow.types.Schema([column("double", name, required=False) for name in table.column_names])


def _typed(mlflow: ModuleType, table: pa.Table) -> Any:
    kinds = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double"}
    column = mlflow.types.ColSpec
    return mlflow.types.Schema([column(kinds[field.type], field.name) for field in table.schema])


def _load(loader: str, folder: Path) -> Any:
    module, name = loader.split(":")
    return getattr(importlib.import_module(module), name).load(folder)
