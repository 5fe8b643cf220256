"""The registered versions of a policy: their aliases, their measures, and the models that they name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse

from nba.errors import DataError, MissingError, listed
from nba.tracking.store import current, opened

CHAMPION, CHALLENGER = "champion", "challenger"
# Tag of a version that has also read decisions whose window was still open when it was trained.
HAS_OPEN = "has_open"
# Tag of a version that was held against the stack of learners; its card tells what came of it.
IS_COMPARED = "is_compared"
# Tag of such a version: what the gate of effects recommends.
GATE = "gate"
# Tag of a version: hash of the decisions and outcomes that it was measured on.
MEASURED_ON = "measured_on"


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


def register(mlflow: ModuleType, name: str, info: Any) -> int:
    """Make the next version of a policy of a model that was logged, and give its number."""
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


def promote(registered: Registered, alias: str) -> None:
    """Let an alias (`champion`, `challenger`) name this version from now on."""
    with opened() as (mlflow, _):
        mlflow.MlflowClient().set_registered_model_alias(registered.name, alias, str(registered.version))


def has_policy(name: str, alias: str = CHAMPION) -> bool:
    """Say whether an alias names a version of the policy."""
    try:
        find(name, alias)
    except MissingError:
        return False
    return True


def find(name: str, alias: str) -> tuple[Registered, Mapping[str, str]]:
    """Give the version that an alias names, with its tags.

    Raises:
        MissingError: when there is none.
    """
    missing = MissingError(
        f"no policy {name!r} with alias {alias!r} is registered", "Run `nba train` once outcomes have closed."
    )
    if not current().is_made:
        raise missing
    with opened() as (mlflow, _):
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
    with opened() as (mlflow, _):
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
    if not current().is_made:
        return []
    with opened() as (mlflow, _):
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
        DataError: when an alias names it (decisions may rest on it), or it already is where it should be.
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
        is_there = "not in the bin" if restore else "in the bin already"
        raise DataError(f"version {number} is {is_there}", "`nba models` lists the versions.")
    with opened() as (mlflow, _):
        client = mlflow.MlflowClient()
        (client.restore_run if restore else client.delete_run)(row["run_id"])


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
    if not current().is_made:
        raise missing
    with opened() as (mlflow, _):
        found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    same = [int(one.version) for one in found if one.tags.get("model_id") == model_id]
    if not same:
        raise missing
    return _folder(name, max(same))


def _folder(name: str, number: int) -> Path:
    with opened() as (mlflow, _):
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


def _local(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path))
