"""Typed settings of a workspace, read from its `nba.toml`.

Every stage takes the part that concerns it; nothing else reads the file. Errors name the key, what was
found and what is allowed, all faults at once.
"""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv
from pydantic import ValidationError

from nba import tables
from nba.catalog import Catalog
from nba.errors import MissingError, SettingsError
from nba.settings.common import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.declared import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.declared import DECLARED, read_declared
from nba.settings.engagement import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.experiments import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.experiments import Trial
from nba.settings.printed import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.running import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.sources import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.whole import *  # noqa: F403 - every section is reached as `settings.Name`
from nba.settings.whole import Settings

FILE = "nba.toml"


def read(workspace: Path) -> Settings:
    """Read the settings of a workspace folder.

    Raises:
        MissingError: when there is no `nba.toml`.
        SettingsError: naming every key that is missing, unknown or out of bounds.
    """
    path = workspace / FILE
    if not path.is_file():
        raise MissingError(
            f"{path} does not exist; expected the configuration of a workspace",
            "Name a workspace folder that holds nba.toml, or make one with `nba simulate`.",
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", "Mend the line it names.") from None
    declared = read_declared(workspace / DECLARED)
    if declared:
        raw["experiments"] = [*raw.get("experiments", []), *declared]
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        lines = [_fault(fault) for fault in error.errors()]
        raise SettingsError(
            "\n".join([f"{path} cannot be used:", *lines]), "Mend these keys; docs/workspace.md lists all."
        ) from None


def declare(settings: Settings, trial: Mapping[str, Any]) -> Trial:
    """Make a trial and check that it fits the workspace's other experiments.

    Raises:
        SettingsError: naming every fault at once.
    """
    try:
        made = Trial.model_validate(dict(trial))
        Settings.model_validate(
            settings.model_dump(exclude={"experiments"})
            | {"experiments": [*(e.model_dump() for e in settings.experiments), made.model_dump()]}
        )
    except ValidationError as error:
        lines = [_fault(fault) for fault in error.errors()]
        raise SettingsError("\n".join(["the experiment cannot be declared:", *lines])) from None
    return made


def read_catalog(workspace: Path, settings: Settings) -> Catalog:
    """Read the catalog's CSV files.

    Raises:
        MissingError: when a file is absent.
        SettingsError: when they cannot be read, naming all rows at once whose numbers are none.
        DataError: when they break their contract or disagree.
    """
    actions = _read_csv(workspace / settings.catalog.actions, tables.ACTIONS)
    treatments = _read_csv(workspace / settings.catalog.treatments, tables.TREATMENTS)
    return Catalog.from_tables(actions, treatments)


def _read_csv(path: Path, table: tables.Table) -> pa.Table:
    if not path.is_file():
        raise MissingError(f"{path} does not exist; expected the catalog's {table.name}", "Add the file.")
    types = {f.name: f.type for f in table.fields}
    _check_numbers(path, table)
    options = csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    try:
        return table.conform(csv.read_csv(path, convert_options=options))
    except pa.ArrowInvalid as error:
        hint = f"See {table.name} in docs/data-dictionary.md."
        raise SettingsError(f"{path} cannot be read: {error}", hint) from None


def _check_numbers(path: Path, table: tables.Table) -> None:
    # Read as text first: Arrow's own message names one cell, and not whose it is.
    texts = csv.ConvertOptions(column_types={f.name: pa.string() for f in table.fields})
    try:
        rows = csv.read_csv(path, convert_options=texts).to_pylist()
    except pa.ArrowInvalid:
        return  # not even a table: reading it with its types says so
    key = table.key[0]
    faults = [
        f"- {key} {row.get(key)!r}: {field.name} is {row[field.name]!r}; expected a number"
        + (" without fraction" if field.kind == "count" else "")
        for row in rows
        for field in table.fields
        if field.kind in ("number", "count") and field.name in row and not _reads(row[field.name], field)
    ]
    if faults:
        raise SettingsError(
            "\n".join([f"{path} cannot be read:", *faults]), "Write 1 or 0.05, and 0 for none."
        )


def _reads(text: str, field: tables.Field) -> bool:
    if not text:
        return field.nullable
    try:
        return math.isfinite(int(text) if field.kind == "count" else float(text))
    except ValueError:
        return False


def _fault(fault: object) -> str:
    assert isinstance(fault, dict)
    key = ".".join(str(part) for part in fault["loc"]) or "(whole file)"
    kind = fault["type"]
    if kind == "missing":
        return f"- {key}: missing"
    if kind == "extra_forbidden":
        return f"- {key}: unknown key"
    found = fault.get("input")
    shown = f"found {found!r}; " if not isinstance(found, dict) else ""
    return f"- {key}: {shown}{str(fault['msg']).removeprefix('Value error, ')}"
