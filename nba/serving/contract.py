"""The delivery contract as JSON Schemas: decisions and their manifest going out, answers coming in."""

from collections.abc import Iterable
from typing import Any

from nba import tables
from nba.histories import answers
from nba.settings import ANSWERS

SCHEMA = "nba.decisions/1"

_TIME = {"type": "string", "format": "date-time"}
_COUNTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}
_NAMES = {"type": "object", "additionalProperties": {"type": "string"}}
_LIMIT = {
    "type": "object",
    "required": ["arm", "limit", "available", "used", "price", "n_customers"],
    "properties": {
        "arm": {"type": "string"},
        "limit": {"type": "string", "description": "a channel, `budget`, or another limit's name"},
        "available": {"type": "number", "description": "contacts or money that the arm had"},
        "used": {"type": "number", "description": "contacts or money that its decisions use"},
        "price": {"type": "number", "description": "money that one more unit is worth"},
        "n_customers": {"type": "integer"},
    },
}
_FILE: dict[str, Any] = {
    "type": "object",
    "required": ["rows", "bytes", "sha256"],
    "properties": {
        "rows": {"type": "integer"},
        "bytes": {"type": "integer"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
}
_MANIFEST: dict[str, dict[str, Any]] = {
    "schema": {"const": SCHEMA, "description": "version of this contract"},
    "batch_id": {"type": "string"},
    "corrects": {"type": ["string", "null"], "description": "the batch that this one takes the place of"},
    "idempotency_key": {"const": "decision_id", "description": "the column that makes a second sending void"},
    "created": _TIME,
    "as_of": {**_TIME, "description": "moment of decision"},
    "feature_as_of": {**_TIME, "description": "moment whose knowledge the features hold"},
    "valid_until": {**_TIME, "description": "do not send later"},
    "config_hash": {"type": "string"},
    "policies": {**_NAMES, "description": "arm to policy and model version"},
    "models": {**_NAMES, "description": "alias to the model's id"},
    "n_decisions": {"type": "integer"},
    "n_contacts": {"type": "integer", "description": "decisions other than `none`"},
    "by_treatment": _COUNTS,
    "by_arm": _COUNTS,
    "removed_by": {**_COUNTS, "description": "rule to the candidates that it removed"},
    "limits": {"type": "array", "items": _LIMIT},
    "prices": {"type": "object", "description": "arm to what its probabilities were cut by"},
    "notes": {"type": "array", "items": {"type": "string"}},
    "files": {"type": "object", "additionalProperties": _FILE},
}
MANIFEST_KEYS = tuple(_MANIFEST)
_JSON_TYPES = {"number": "number", "count": "integer", "flag": "boolean"}


_DELIVERED = {
    "schema": {"const": answers.SCHEMA, "description": "version of this contract"},
    "files": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["rows", "sha256"],
            "properties": {name: _FILE["properties"][name] for name in ("rows", "sha256")},
        },
        "description": "name of a file beside the manifest to what it holds",
    },
}
_KNOWN_AS = tables.Field("external_id", "id", "the `external_id` of the decision")
# What is filled where it is left blank: a hash of the row, nothing spent, one piece, not a return.
_FILLED = ("touch_id", "cost", "n_items", "is_return")


def schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schemas of manifests and rows, by file name (`docs/schemas/` holds them).

    Example:
        >>> sorted(schemas())[:3]
        ['activations.v1.json', 'conversions.v1.json', 'decision.v1.json']
    """
    out = {
        "manifest.v1.json": _schema(f"Manifest of a batch, {SCHEMA}", _MANIFEST),
        "decision.v1.json": _schema(f"A decision, {SCHEMA}", _rows(tables.DECISIONS.fields)),
        "feedback.v1.json": _schema(f"Manifest of a delivery of answers, {answers.SCHEMA}", _DELIVERED),
    }
    for name, answer in ANSWERS.items():
        known = {spec.name: spec for spec in tables.BY_NAME[answer.table].fields}
        rows = _rows([_KNOWN_AS, *(known[column] for column in answer.columns)])
        for column in {*rows} & {*_FILLED}:
            rows[column]["type"] = [rows[column]["type"], "null"]
        if answer.kinds:
            rows["kind"]["enum"] = list(answer.kinds)
        out[f"{name}.v1.json"] = _schema(f"A row of {name}, {answers.SCHEMA}", rows)
    return out


def _rows(fields: Iterable[tables.Field]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for spec in fields:
        kind = _JSON_TYPES.get(spec.kind, "string")
        rows[spec.name] = {"type": [kind, "null"] if spec.nullable else kind, "description": spec.doc}
        if spec.kind == "time":
            rows[spec.name]["format"] = "date-time"
        if spec.low is not None:
            rows[spec.name]["minimum"] = spec.low
        if spec.high is not None:
            rows[spec.name]["maximum"] = spec.high
    return rows


def _schema(title: str, properties: dict[str, Any]) -> dict[str, Any]:
    draft = "https://json-schema.org/draft/2020-12/schema"
    required = list(properties)
    return {
        "$schema": draft,
        "title": title,
        "type": "object",
        "required": required,
        "properties": properties,
    }
