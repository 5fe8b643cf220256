"""Where runs and models are kept, and the opening of it.

The store is, in this order, `MLFLOW_TRACKING_URI`, the workspace's `tracking` (a relative SQLite path is
relative to the workspace), `mlruns/mlflow.db` of the checkout. Artifacts of a SQLite store lie in
`artifacts/` beside it.
"""

import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nba.errors import SettingsError
from nba.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[2]

_SQLITE = "sqlite:///"
_ID_FILE = ".tracking-id"


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

    @property
    def is_made(self) -> bool:
        """Whether there is something to read: a SQLite file that nobody has written yet holds nothing."""
        return self.database is None or self.database.is_file()


_current: list[Store] = []


def policy_name(settings: Settings, workspace: Path | None = None) -> str:
    """Name the registered policy of a workspace: its name, and what tells it from others of that name.

    Args:
        settings: Of the workspace.
        workspace: Its folder; the one of the last `setup` if absent.
    """
    suffix = _suffix(workspace) if workspace else current().suffix
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


def current() -> Store:
    """Give the store of the last `setup`; without one, that of the environment or the checkout."""
    if not _current:
        uri = resolve(os.environ.get("MLFLOW_TRACKING_URI"), None, CHECKOUT)
        _current[:] = [Store(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri, "nba")]
    return _current[0]


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Put the stores' variables back: MLflow writes there what it is set to.

    A store that was set in code would otherwise win over the `tracking` of the next workspace that the same
    process opens.
    """
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def opened() -> Iterator[tuple[ModuleType, Store]]:
    """Give MLflow set to the current store, quiet: only what it causes itself is silenced, and only here."""
    store = current()
    with _environment_kept(), warnings.catch_warnings():
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


def experiment_id(mlflow: ModuleType, store: Store) -> str:
    """Give the id of the store's experiment, which is made where it is not there yet."""
    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(store.experiment)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if store.database is not None:
        location = (store.database.parent / "artifacts" / store.experiment).absolute().as_uri()
    return str(client.create_experiment(store.experiment, artifact_location=location))


def _suffix(workspace: Path) -> str:
    path = workspace / _ID_FILE
    return f"-{path.read_text(encoding='utf-8').strip()}" if path.is_file() else ""
