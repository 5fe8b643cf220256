"""Experiments declared by business people in CSV files, and written back as TOML."""

import csv as text_csv
import json
from pathlib import Path
from typing import Any

from nba.errors import SettingsError
from nba.settings.experiments import Measured, Trial

# Experiments may also be declared here, beside or instead of `[[experiments]]`.
DECLARED = "experiments"


def read_declared(folder: Path) -> list[dict[str, Any]]:
    """Read the experiments that business people declare in CSV files, as `[[experiments]]` entries.

    `experiments.csv` has one row per experiment, `arms.csv`, `metrics.csv` and `phases.csv` (one row per
    phase and arm: starts_at, arm, share) name theirs by `experiment_id`. Columns are the keys of
    `[[experiments]]`; an empty cell is the default. Several segments are separated by `;`, slots are
    written as `0-0.5`, an audience as `a_country=ES|FR; can_email=true`.

    Args:
        folder: Where the files are; without `experiments.csv` nothing is declared.

    Raises:
        SettingsError: naming every file, row and column that cannot be read.
    """
    if not (folder / "experiments.csv").is_file():
        return []
    faults: list[str] = []
    parts = {name: _rows_of(folder / f"{name}.csv", faults) for name in _DECLARED_COLUMNS}
    known = {row.get("experiment_id") for row in parts["experiments"]}
    for name in ("arms", "metrics", "phases"):
        for number, row in enumerate(parts[name], 2):
            if row.get("experiment_id") not in known:
                text = f"{name}.csv line {number}: experiment {row.get('experiment_id')!r}"
                faults.append(f"{text}; experiments.csv has {sorted(map(str, known))}")
    out = []
    for number, row in enumerate(parts["experiments"], 2):
        own = {
            name: [
                {k: v for k, v in part.items() if k != "experiment_id"}
                for part in parts[name]
                if part.get("experiment_id") == row.get("experiment_id")
            ]
            for name in ("arms", "metrics", "phases")
        }
        entry: dict[str, Any] = dict(row)
        try:
            entry |= _spelled_out(row)
        except ValueError as error:
            faults.append(f"experiments.csv line {number}: {error}")
        phases: dict[str, dict[str, Any]] = {}
        for part in own["phases"]:
            phase = phases.setdefault(
                part.get("starts_at", ""), {"starts_at": part.get("starts_at"), "shares": {}}
            )
            phase["shares"][part.get("arm", "")] = part.get("share")
        out.append(entry | {"arms": own["arms"], "metrics": own["metrics"], "phases": list(phases.values())})
    if faults:
        raise SettingsError(
            "\n".join([f"{folder} cannot be used:", *(f"- {fault}" for fault in faults)]),
            "Mend these lines; docs/experiments-formulas.md lists the columns.",
        )
    return out


_DECLARED_COLUMNS = {
    "experiments": (
        *("experiment_id", "salt", "control", "level", "starts_at", "ends_at", "look_days", "segments"),
        *("correction", "layer", "slots", "audience"),
    ),
    "arms": ("experiment_id", "name", "share", "policy"),
    "metrics": ("experiment_id", *Measured.model_fields),
    "phases": ("experiment_id", "starts_at", "arm", "share"),
}


def _rows_of(path: Path, faults: list[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = text_csv.DictReader(file, strict=True)
            rows = list(lines)
    except (UnicodeDecodeError, text_csv.Error) as error:
        faults.append(f"{path.name} is not CSV in UTF-8: {error}")
        return []
    allowed = _DECLARED_COLUMNS[path.stem]
    unknown = [name for name in lines.fieldnames or () if name not in allowed]
    if unknown:
        faults.append(f"{path.name}: unknown columns {unknown}; known are {list(allowed)}")
    out = []
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            faults.append(f"{path.name} line {number}: as many cells as columns are expected")
            continue
        out.append({k: v.strip() for k, v in row.items() if v.strip() and k in allowed})
    return out


def _spelled_out(row: dict[str, str]) -> dict[str, Any]:
    # Cells that hold more than one value.
    out: dict[str, Any] = {}
    if "segments" in row:
        out["segments"] = [part.strip() for part in row["segments"].split(";")]
    if "slots" in row:
        ends = row["slots"].split("-")
        if len(ends) != 2:
            raise ValueError(f"slots is {row['slots']!r}; expected two numbers, such as 0-0.5")
        out["slots"] = ends
    if "audience" in row:
        out["audience"] = {}
        for part in row["audience"].split(";"):
            name, mark, values = part.partition("=")
            if not mark:
                raise ValueError(f"audience is {row['audience']!r}; expected such as a_country=ES|FR")
            spelled = {"true": True, "false": False}
            out["audience"][name.strip()] = [spelled.get(v.strip(), v.strip()) for v in values.split("|")]
    return out


def declaration(trial: Trial) -> str:
    """Write a trial as the text to put at the end of `nba.toml`; reading it back gives the same trial.

    Example:
        >>> arms = [{"name": "a", "share": 0.5, "policy": "champion"}]
        >>> arms.append({"name": "b", "share": 0.5, "policy": "random"})
        >>> trial = Trial(experiment_id="x", control="a", arms=arms, starts_at="2026-03-02T06:00Z")
        >>> print(declaration(trial).splitlines()[0])
        [[experiments]]
    """
    given = trial.model_dump(mode="json", exclude_none=True)
    default = {name: field.get_default() for name, field in Trial.model_fields.items()}
    lines = ["[[experiments]]"]
    for name, value in given.items():
        if name in ("arms", "metrics", "phases") or getattr(trial, name) == default.get(name):
            continue
        moment = name in ("starts_at", "ends_at")
        lines.append(f"{name} = {value if moment else _toml(value)}")
    for name in ("arms", "metrics", "phases"):
        for entry in given.get(name, []):
            lines += ["", f"[[experiments.{name}]]"]
            lines += [
                f"{key} = {value if key == 'starts_at' else _toml(value)}" for key, value in entry.items()
            ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)
