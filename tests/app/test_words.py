"""What the app says: one catalogue of words in every language, reasons of the library told in each."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from app import grid, messages, report
from app.data import STEP
from app.messages import LANGUAGES, phrases
from app.messages import words as catalogue
from nba import plots, tables
from nba.attribution import incremental
from nba.experiments import decision
from nba.models import clv_counts, clv_spend

# laws


def test_every_word_used_is_in_the_catalogue() -> None:
    folder = Path(messages.__file__).parent
    used = {
        key
        for path in folder.rglob("*.py")
        for key in re.findall(r'say\(\s*"([a-z_.]+)"', path.read_text(encoding="utf-8"))
    }
    assert used
    for language in LANGUAGES:
        assert used <= set(catalogue(language))


def test_every_text_of_the_catalogue_is_used() -> None:
    # By its whole key, or by a section that is composed with a name of the library's or the app's own.
    here = Path(messages.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in here.rglob("*.py")]
    own = "\n".join(texts)
    texts += [
        path.read_text(encoding="utf-8")
        for folder in ("nba", "pipelines")
        for path in (here.parent / folder).rglob("*.py")
    ]
    quoted = re.findall(r"""["'`]([^"'`\n]{1,60})["'`]""", "\n".join(texts))
    names = {re.sub(r"\W+", "_", text) for text in quoted}
    columns = {name for table in tables.ALL for name in table.columns}
    stems = {f"{name}." for name in re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', own)}
    stems |= set(re.findall(r'f"([a-z_.]+){', own))
    terms = {*grid._TERM.values(), *report.BASIS.values()}
    later = {"method.linear_calibrated"}  # composed of a method's name

    def is_used(key: str) -> bool:
        section, _, rest = key.partition(".")
        if f'"{key}"' in own or f"'{key}'" in own or key in later:
            return True
        if section == "term":
            return rest in terms
        if section == "column":
            table, _, column = rest.rpartition(".")
            return column in (tables.BY_NAME[table].columns if table else columns | names)
        return any(key.startswith(s) and re.sub(r"\W+", "_", key[len(s) :]) in names | columns for s in stems)

    assert [key for key in catalogue("en") if not is_used(key)] == []


def test_every_phrase_of_the_catalogue_is_said_somewhere() -> None:
    here = Path(messages.__file__).parents[1]
    constants = {
        node.value
        for folder in ("app", "nba", "pipelines")
        for path in (here / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    said = "\n".join(constants)
    assert [english for english, _ in phrases("es") if english not in said] == []


def test_every_language_has_the_same_keys_and_blanks() -> None:
    blanks = {
        language: {key: set(re.findall(r"{(\w+)}", text)) for key, text in catalogue(language).items()}
        for language in LANGUAGES
    }
    assert blanks["en"] == blanks["es"]
    said = {key for key in blanks["en"] if catalogue("en")[key] == catalogue("es")[key]}
    same = {
        "channel.sms",
        "channel.push",
        "limit.sms",
        "limit.push",
        "column.auc",
        "column.qini",
        "column.total",
        "column.control",
        "no",
    }
    assert said == same


def test_reasons_of_attribution_and_value_are_told_in_spanish(monkeypatch: pytest.MonkeyPatch) -> None:
    one, few = np.zeros(2, dtype=np.int64), np.full((2, 1), 0.5)
    nobody = np.empty(0, dtype=np.int64)
    empty = (nobody, nobody, nobody)
    days = incremental.Days(1, 1, empty, (nobody, nobody, np.empty(0)), one[:1], one[:1], np.array([True]))
    held = incremental.held_out(np.ones(2), np.array([[True], [False]]))
    decided = incremental.decided(np.ones(2), np.array([0, -1]), few, few[:, 0], np.arange(2))
    seen = incremental.Caused(np.ones(1), np.ones(1), one[:1], "observed", ("",))
    counts = clv_counts.fit(clv_counts.compress(np.ones(3), np.ones(3), np.full(3, 9.0)), "pareto_nbd")
    reasons = [
        held.reason[0], decided.reason[0], incremental.observed(days).reason[0], counts.reason,
        clv_spend.fit(np.full(20, 2), np.full(20, 5.0)).reason, clv_spend.fit(np.ones(4), np.ones(4)).reason,
        incremental.combine(held, seen).reason[0],
        "no dropout can be seen: bg_nbd is at its limit, NBD is used; so nobody counts as lost: p_alive is 1",
    ]  # fmt: skip
    monkeypatch.setattr(messages, "language", lambda: "es")
    for reason in reasons:
        told = messages.told(reason)
        assert told != reason
        assert not {"needed", "the", "are", "is"} & set(re.findall(r"[a-z]+", told)), told


def test_reasons_of_verdicts_are_told_in_spanish(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(name: str, lower: float, upper: float) -> decision.Shown:
        return decision.Shown(name, lower, upper, 0.3)

    guards = [shown("opt_outs", *ends) for ends in ((-0.9, -0.4), (-0.9, 0.1), (-0.1, 0.1))]
    found = [
        decision.decide(shown("margin", *ends), kept, is_over=is_over, unit="EUR")
        for ends in ((0.2, 0.9), (-0.9, -0.2), (-0.2, 0.1), (-0.2, 0.9))
        for kept in ((), *((guard,) for guard in guards))
        for is_over in (True, False)
    ]
    ship, harm = (next(d for d in found if d.verdict.value == v) for v in ("ship", "stop: harm"))
    reasons = {d.reason for d in [*found, decision.follow([ship, harm])]}
    assert len(reasons) > 10
    monkeypatch.setattr(messages, "language", lambda: "es")
    english = {"the", "its", "rose", "fell", "could", "would", "not", "this", "and"}
    for reason in reasons:
        told = messages.told(reason)
        assert not english & set(re.findall(r"[a-z]+", told.lower())), told


def test_notes_and_changes_are_told_in_spanish_with_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "language", lambda: "es")
    told = {
        "the weights average 0.988, expected 1": "los pesos tienen media 0,988; se esperaba 1",
        "1,216 of 2,637 contacts had too little chance of none": (
            "1.216 de 2.637 contactos tenían muy poca probabilidad de no hacerse"
        ),
        "+0.0312 per decision, -0.0100 to +0.0700 at all looks together": (
            "+0,0312 por decisión, de −0,0100 a +0,0700 en todas las lecturas a la vez"
        ),
        "effective sample size of the challenger": "tamaño efectivo de la muestra: aspirante",
        "0 decisions without a logged probability are left out": (
            "quedan fuera 0 decisiones sin probabilidad registrada"
        ),
    }
    for english, spanish in told.items():
        assert messages.told(english) == spanish
    changes = "sms capacity 2000, lever of vip 1.5, without cooldown, budget 10, gold stopped"
    assert messages.changes(changes) == (
        "capacidad de sms: 2000, palanca de vip: 1,5, sin la regla «en pausa», presupuesto: 10, gold parado"
    )


def test_every_phrase_of_a_figure_is_in_every_language() -> None:
    folder = Path(plots.__file__).parent
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    titles = re.findall(r'style\.(?:figure|unit)\(\s*"([^"]+)"', text) + re.findall(
        r'style\.figure\("[^"]*", "([^"]+)"', text
    )
    assert len(titles) > 25
    assert set(titles) <= {english for english, _ in phrases("es")}


def commands() -> set[str]:
    from pipelines.cli import app as cli

    areas = (group.typer_instance for group in cli.registered_groups)
    return {c.name or c.callback.__name__ for area in areas for c in area.registered_commands}


def test_every_command_named_exists() -> None:
    assert set(STEP.values()) <= commands()
