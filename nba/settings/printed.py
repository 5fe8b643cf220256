"""The reference of the settings, printed from them."""

import inspect
import json
from typing import Any, get_args

from pydantic import BaseModel

from nba.settings.whole import Settings


def reference() -> str:
    """Print every key of `nba.toml` with its default and meaning, in Markdown (`docs/workspace.md`)."""
    out = [
        "# The workspace",
        "",
        "Printed from `nba/settings`; do not edit. A workspace is a folder with `nba.toml`; every key",
        "below may stand in it. Keys without a default must be given. Unknown keys are refused.",
        "",
    ]
    for name, spec in Settings.model_fields.items():
        inner = [m for m in (spec.annotation, *get_args(spec.annotation)) if _is_section(m)]
        out += _section(name, inner[0], many=not _is_section(spec.annotation))
    return "\n".join(out)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _section(name: str, model: type[BaseModel], *, many: bool) -> list[str]:
    doc = inspect.cleandoc(model.__doc__ or "")
    head, _, body = doc.partition("Attributes:")
    meaning: dict[str, str] = {}
    key = ""
    for line in body.splitlines():
        words = line.strip()
        if line.startswith("    ") and not line.startswith("     ") and ":" in words:
            key, _, words = words.partition(":")
        for part in filter(None, key.split(",")):
            meaning[part.strip()] = f"{meaning.get(part.strip(), '')} {words.strip()}".strip()
    title = f"[[{name}]]" if many else f"[{name}]"
    rows = [f"## `{title}`", "", head.strip(), "", "| key | default | meaning |", "|---|---|---|"]
    nested = []
    for field, spec in model.model_fields.items():
        inner = [m for m in get_args(spec.annotation) if _is_section(m)]
        nested += _section(f"{name}.{field}", inner[0], many=True) if inner else []
        shown = "" if spec.is_required() or inner else f"`{json.dumps(spec.get_default(), default=str)}`"
        rows.append(f"| `{field}` | {shown} | {meaning.get(field, '')} |")
    return [*rows, "", *nested]
