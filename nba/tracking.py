"""The one door to MLflow: runs, figures, data sets, the registered policy and its aliases.

The store is, in this order, `MLFLOW_TRACKING_URI`, the workspace's `tracking` (a relative SQLite path is
relative to the workspace), `mlruns/mlflow.db` of the checkout. Artifacts of a SQLite store lie in
`artifacts/` beside it. MLflow takes seconds to import and is only imported when something is read from or
written to a store that exists or is to be made.
"""

import importlib
import json
import logging
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa

from nba.errors import DataError, MissingError, SettingsError, listed
from nba.settings import Settings

CHAMPION, CHALLENGER = "champion", "challenger"
# Tag of a version that has also read decisions whose window was still open when it was trained.
HAS_OPEN = "has_open"
# Tag of a version that was held against the stack of learners; its card tells what came of it.
IS_COMPARED = "is_compared"
CHECKOUT = Path(__file__).resolve().parent.parent

_SQLITE = "sqlite:///"
_ID_FILE = ".tracking-id"
_ROWS = 2_000  # of a data set whose digest is logged
_SCRIPT = """\
from mlflow.models import set_model

from nba.tracking import pyfunc

set_model(pyfunc({loader!r}))
"""


@dataclass(frozen=True)
class Store:
    """Where runs and models are kept.

    Attributes:
        tracking, registry: MLflow URIs.
        experiment: Name of the workspace's experiment.
        suffix: Tells workspaces of one name apart in a shared store; empty before the first training.
    """

    tracking: str
    registry: str
    experiment: str
    suffix: str = ""

    @property
    def database(self) -> Path | None:
        """The SQLite file; None for other stores."""
        return Path(self.tracking.removeprefix(_SQLITE)) if self.tracking.startswith(_SQLITE) else None


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


@dataclass(frozen=True)
class Registered:
    """A version of a registered policy.

    Attributes:
        run_id: The run that made it; empty if it was there before.
        version: Its number, from 1.
    """

    name: str
    version: int
    run_id: str


_current: list[Store] = []


def policy_name(settings: Settings, workspace: Path | None = None) -> str:
    """Name the registered policy of a workspace: its name, and what tells it from others of that name.

    Args:
        settings: Of the workspace.
        workspace: Its folder; the one of the last `setup` if absent.
    """
    suffix = _suffix(workspace) if workspace else _store().suffix
    return f"{settings.workspace.name}-policy{suffix}"


def purchases_name(settings: Settings, workspace: Path | None = None) -> str:
    """Name the registered model of the chance to buy of a workspace; the arguments are `policy_name`'s."""
    return policy_name(settings, workspace).replace("-policy", "-purchases")


def claim(settings: Settings, workspace: Path) -> Store:
    """Set up for training: a workspace that has no models yet gets an id of its own.

    Two workspaces of one name, or one that was deleted and made again, then do not take each other's
    champion for their own.
    """
    if not _suffix(workspace):
        (workspace / _ID_FILE).write_text(uuid.uuid4().hex[:6], encoding="utf-8")
    return setup(settings, workspace)


def setup(settings: Settings, workspace: Path) -> Store:
    """Choose the store for all that follows in this process; nothing is opened yet.

    Args:
        settings: Of the workspace.
        workspace: Its folder.

    Raises:
        SettingsError: when the tracking setting is not something that MLflow can use.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    tracking = resolve(os.environ.get("MLFLOW_TRACKING_URI"), settings.workspace.tracking, workspace)
    registry = os.environ.get("MLFLOW_REGISTRY_URI") or tracking
    store = Store(tracking, registry, settings.workspace.name, _suffix(workspace))
    _current[:] = [store]
    return store


def resolve(environment: str | None, setting: str | None, workspace: Path) -> str:
    """Give the tracking URI.

    Args:
        environment: Value of `MLFLOW_TRACKING_URI`; it wins as it stands.
        setting: The workspace's `tracking`: a URI, or a SQLite file.
        workspace: What a relative file is relative to.

    Raises:
        SettingsError: for a file store, which MLflow no longer maintains.

    Example:
        >>> resolve(None, "sqlite:///runs.db", Path("/shop"))
        'sqlite:////shop/runs.db'
        >>> resolve("http://mlflow.local", "sqlite:///runs.db", Path("/shop"))
        'http://mlflow.local'
    """
    if environment:
        return environment
    if not setting:
        return f"{_SQLITE}{CHECKOUT / 'mlruns' / 'mlflow.db'}"
    file = setting.removeprefix(_SQLITE)
    if file.endswith(".db") and "://" not in file:
        return f"{_SQLITE}{(workspace.absolute() / file)}"
    if "://" not in setting or setting.startswith("file:"):
        raise SettingsError(
            f"workspace.tracking is {setting!r}; expected a SQLite file (*.db) or the URI of a server",
            "Write for example tracking = 'sqlite:///mlflow.db', or leave it out.",
        )
    return setting


def log_training(training: Training) -> Registered:
    """Log one training as a run and register its model as the next version of the policy."""
    with _mlflow() as (mlflow, store):
        experiment = _experiment(mlflow, store)
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
    with _mlflow() as (mlflow, store):
        known = mlflow.MlflowClient().get_run(registered.run_id).data.params
        with mlflow.start_run(run_id=registered.run_id):
            mlflow.log_params({k: v for k, v in training.params.items() if k not in known})
            _log_found(mlflow, training)
            _log_trials(mlflow, training.trials, _experiment(mlflow, store))
        _describe(mlflow, training, registered.version)


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


def log_run(
    run_name: str,
    *,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    figures: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a run without a registered model, and return its id."""
    with _mlflow() as (mlflow, store):
        experiment = _experiment(mlflow, store)
        with mlflow.start_run(experiment_id=experiment, run_name=run_name) as run:
            mlflow.set_tags(dict(tags or {}))
            mlflow.log_params(dict(params))
            mlflow.log_metrics({k: v for k, v in metrics.items() if v == v})
            for name, figure in (figures or {}).items():
                mlflow.log_figure(figure, f"figures/{name}")
        return str(run.info.run_id)


def has_policy(name: str, alias: str = CHAMPION) -> bool:
    """Say whether an alias names a version of the policy."""
    try:
        find(name, alias)
    except MissingError:
        return False
    return True


def promote(registered: Registered, alias: str) -> None:
    """Let an alias (`champion`, `challenger`) name this version from now on."""
    with _mlflow() as (mlflow, _):
        mlflow.MlflowClient().set_registered_model_alias(registered.name, alias, str(registered.version))


def find(name: str, alias: str) -> tuple[Registered, Mapping[str, str]]:
    """Give the version that an alias names, with its tags.

    Raises:
        MissingError: when there is none.
    """
    missing = MissingError(
        f"no policy {name!r} with alias {alias!r} is registered", "Run `nba train` once outcomes have closed."
    )
    database = _store().database
    if database is not None and not database.is_file():
        raise missing
    with _mlflow() as (mlflow, _):
        try:
            version = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise missing from None
            raise
        return Registered(name, int(version.version), version.run_id or ""), dict(version.tags)


def version(name: str, number: int) -> Registered:
    """Give a version by its number.

    Raises:
        MissingError: when there is none.
    """
    with _mlflow() as (mlflow, _):
        try:
            found = mlflow.MlflowClient().get_model_version(name, str(number))
        except mlflow.exceptions.MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise MissingError(
                f"policy {name!r} has no version {number}", "`nba mlflow` shows the versions."
            ) from None
        return Registered(name, int(found.version), found.run_id or "")


def versions(name: str) -> list[dict[str, Any]]:
    """List the versions of a policy, newest first: number, alias, moment, tags, measures and run.

    Returns:
        Dicts with version, alias, created_at, tags, card, metrics, run_id, is_deleted (its run is in the
        bin), link (its path in the MLflow app); none where nothing is registered.
    """
    database = _store().database
    if database is not None and not database.is_file():
        return []
    with _mlflow() as (mlflow, _):
        client = mlflow.MlflowClient()
        # The registered model names the version of each alias; the versions do not.
        found = client.search_model_versions(f"name = '{name}'")
        if not found:
            return []
        named = client.get_registered_model(name).aliases
        aliases: dict[int, list[str]] = {}
        for alias, number in named.items():
            aliases.setdefault(int(number), []).append(alias)
        out = []
        for one in found:
            run = client.get_run(one.run_id) if one.run_id else None
            experiment = run.info.experiment_id if run else ""
            out.append(
                {
                    "version": int(one.version),
                    "alias": ", ".join(sorted(aliases.get(int(one.version), []))),
                    "created_at": datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
                    "tags": dict(one.tags),
                    "card": one.description or "",
                    "metrics": dict(run.data.metrics) if run else {},
                    "run_id": one.run_id or "",
                    "is_deleted": run is not None and run.info.lifecycle_stage == "deleted",
                    "link": f"/#/experiments/{experiment}/runs/{one.run_id}" if run else "",
                }
            )
        return sorted(out, key=lambda row: -row["version"])


def bin_run(name: str, number: int, *, restore: bool = False) -> None:
    """Put the run of a version into MLflow's bin, or take it out again; the files stay where they are.

    Raises:
        MissingError: when there is no such version.
        DataError: when an alias names it: decisions may rest on it.
    """
    given = {row["version"]: row for row in versions(name)}
    if number not in given:
        raise MissingError(f"policy {name!r} has no version {number}", f"It has {sorted(given)}.")
    row = given[number]
    if row["alias"] and not restore:
        raise DataError(
            f"version {number} is {row['alias']}",
            "Promote another version first (`nba promote`).",
        )
    if row["is_deleted"] is not restore:
        return
    with _mlflow() as (mlflow, _):
        client = mlflow.MlflowClient()
        (client.restore_run if restore else client.delete_run)(row["run_id"])


def _verify(mlflow: ModuleType, model: Path, name: str, number: int) -> None:
    # What the saved scorer reads and gives must be what was registered.
    signature = mlflow.models.Model.load(str(model)).signature
    meta = json.loads((model / "artifacts" / "scorer" / "scorer.json").read_text(encoding="utf-8"))
    if signature is None:
        raise DataError(f"version {number} of {name!r} has no signature", "Run `nba train` again.")
    known = set(signature.inputs.input_names())
    faults = [f"reads {f!r}, which the signature lacks" for f in meta["features"] if f not in known]
    given = set(signature.outputs.input_names())
    faults += [
        f"scores {t!r}, which the signature lacks"
        for t in meta["treatment_ids"]
        if f"uplift:{t}" not in given
    ]
    if faults:
        raise listed(
            faults, f"version {number} of {name!r} does not fit its signature", "Run `nba train` again."
        )


def load_policy(name: str, alias: str = CHAMPION) -> tuple[Path, int]:
    """Give the local folder of the saved model that an alias names, and its version.

    Raises:
        MissingError: when there is none.
        DataError: when the model does not fit the signature that it was registered with.
    """
    registered, _ = find(name, alias)
    return _folder(name, registered.version), registered.version


def load_model(name: str, model_id: str) -> Path:
    """Give the local folder of the saved model of this id, whatever alias it has now.

    Raises:
        MissingError: when no version is this model, or its files are gone.
        DataError: when the model does not fit the signature that it was registered with.
    """
    missing = MissingError(
        f"policy {name!r} has no version of model {model_id!r}", "`nba mlflow` shows the versions."
    )
    database = _store().database
    if database is not None and not database.is_file():
        raise missing
    with _mlflow() as (mlflow, _):
        found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    same = [int(one.version) for one in found if one.tags.get("model_id") == model_id]
    if not same:
        raise missing
    return _folder(name, max(same))


def _folder(name: str, number: int) -> Path:
    with _mlflow() as (mlflow, _):
        uri = mlflow.MlflowClient().get_model_version_download_uri(name, str(number))
        local = _local(uri)
        model = local if local else Path(mlflow.artifacts.download_artifacts(uri))
        folder = model / "artifacts" / "scorer"
        if (folder / "scorer.json").is_file() and (model / "MLmodel").is_file():
            _verify(mlflow, model, name, number)
    if not folder.is_dir():
        raise MissingError(
            f"{folder} does not exist, though version {number} of {name!r} is registered there",
            "The artifacts were moved or deleted: run `nba train` again.",
        )
    return folder


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
    with _mlflow() as (mlflow, _), tempfile.TemporaryDirectory() as place:
        script = Path(place) / "policy.py"
        script.write_text(_SCRIPT.format(loader=loader), encoding="utf-8")
        mlflow.pyfunc.save_model(
            str(target),
            python_model=str(script),
            artifacts={"scorer": str(shutil.copytree(folder, Path(place) / "scorer"))},
            signature=mlflow.models.ModelSignature(*(_typed(mlflow, table) for table in (example, served))),
            pip_requirements=["lightgbm", "numba", "numpy", "pyarrow", "pydantic", "scipy"],
        )


def _typed(mlflow: ModuleType, table: pa.Table) -> Any:
    kinds = {pa.string(): "string", pa.int64(): "long", pa.float64(): "double"}
    column = mlflow.types.ColSpec
    return mlflow.types.Schema([column(kinds[field.type], field.name) for field in table.schema])


def _load(loader: str, folder: Path) -> Any:
    module, name = loader.split(":")
    return getattr(importlib.import_module(module), name).load(folder)


def _log_model(mlflow: ModuleType, training: Training) -> int:
    names = [name for name in training.example.column_names if name.startswith("f_")]
    example = training.example.select(names)
    served = _load(training.loader, training.folder).wide(example)
    signature = mlflow.models.ModelSignature(_schema(mlflow, example), _schema(mlflow, served))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "policy.py"
        script.write_text(_SCRIPT.format(loader=training.loader), encoding="utf-8")
        scorer = shutil.copytree(training.folder, Path(folder) / "scorer")
        info = mlflow.pyfunc.log_model(
            name="policy",
            python_model=str(script),
            artifacts={"scorer": str(scorer)},
            signature=signature,
            input_example=example.to_pandas(),
            pip_requirements=["lightgbm", "numpy", "pyarrow"],
        )
    return _register(mlflow, training.name, info)


def _register(mlflow: ModuleType, name: str, info: Any) -> int:
    client = mlflow.MlflowClient()
    try:
        client.get_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    version = client.create_model_version(
        name, info.model_uri, run_id=info.run_id, model_id=info.model_id, await_creation_for=None
    )
    return int(version.version)


def _schema(mlflow: ModuleType, table: pa.Table) -> Any:
    column = mlflow.types.ColSpec
    return mlflow.types.Schema([column("double", name, required=False) for name in table.column_names])


def _suffix(workspace: Path) -> str:
    path = workspace / _ID_FILE
    return f"-{path.read_text(encoding='utf-8').strip()}" if path.is_file() else ""


def _store() -> Store:
    if not _current:
        uri = resolve(os.environ.get("MLFLOW_TRACKING_URI"), None, CHECKOUT)
        _current[:] = [Store(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri, "nba")]
    return _current[0]


@contextmanager
def _mlflow() -> Iterator[tuple[ModuleType, Store]]:
    # Only what MLflow itself causes is silenced, and only here.
    store = _store()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"mlflow\.")
        warnings.filterwarnings("ignore", message=r"(?s).*(Any type hint is inferred|Add type hints to)")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        import mlflow
        import mlflow.data
        import mlflow.models
        import mlflow.pyfunc

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        if store.database is not None:
            store.database.parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(store.tracking)
        mlflow.set_registry_uri(store.registry)
        yield mlflow, store


def _experiment(mlflow: ModuleType, store: Store) -> str:
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(store.experiment)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if store.database is not None:
        location = (store.database.parent / "artifacts" / store.experiment).absolute().as_uri()
    return str(client.create_experiment(store.experiment, artifact_location=location))


def _local(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path))
