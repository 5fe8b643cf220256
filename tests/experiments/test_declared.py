"""Experiments declared in CSV files."""

from pathlib import Path

import pytest

from nba import settings
from nba.errors import SettingsError

TOML = '[workspace]\nname = "x"\n'
EXPERIMENTS = """experiment_id,control,starts_at,ends_at,look_days,segments,slots,audience
new_mail,old,2026-01-01T00:00Z,2026-03-01T00:00Z,7,a_city; timezone,0-0.5,a_city=Rome|Oslo; can_email=true
"""
ARMS = "experiment_id,name,share,policy\nnew_mail,old,0.5,champion\nnew_mail,new,0.5,challenger\n"
METRICS = """experiment_id,name,numerator,denominator,role,is_good,planned_effect,margin,cap
new_mail,margin,margin,,primary,,0.5,,100
new_mail,basket,revenue,orders,,,,,
new_mail,opt_outs,unsubscribes,,guardrail,false,,0.02,
"""
PHASES = """experiment_id,starts_at,arm,share
new_mail,2026-02-01T00:00Z,old,0.2
new_mail,2026-02-01T00:00Z,new,0.8
"""


def declare(folder, **files):
    (folder / "nba.toml").write_text(files.pop("toml", TOML), encoding="utf-8")
    (folder / "experiments").mkdir()
    given = {"experiments": EXPERIMENTS, "arms": ARMS, "metrics": METRICS, "phases": PHASES} | files
    for name, text in given.items():
        (folder / "experiments" / f"{name}.csv").write_text(text, encoding="utf-8")
    return settings.read(folder)


# by hand


def test_csv_declares_what_toml_declares(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "toml").mkdir()
    text = """
[[experiments]]
experiment_id = "new_mail"
control = "old"
starts_at = 2026-01-01T00:00:00Z
ends_at = 2026-03-01T00:00:00Z
segments = ["a_city", "timezone"]
slots = [0.0, 0.5]
audience = { a_city = ["Rome", "Oslo"], can_email = [true] }
arms = [{name = "old", share = 0.5, policy = "champion"}, {name = "new", share = 0.5, policy = "challenger"}]
metrics = [
  {name = "margin", numerator = "margin", role = "primary", planned_effect = 0.5, cap = 100},
  {name = "basket", numerator = "revenue", denominator = "orders"},
  {name = "opt_outs", numerator = "unsubscribes", role = "guardrail", is_good = false, margin = 0.02},
]
phases = [{starts_at = 2026-02-01T00:00:00Z, shares = {old = 0.2, new = 0.8}}]
"""
    (tmp_path / "toml" / "nba.toml").write_text(TOML + text, encoding="utf-8")
    found = declare(tmp_path / "csv")
    assert found.experiments == settings.read(tmp_path / "toml").experiments
    assert found.config_hash == settings.read(tmp_path / "toml").config_hash


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"arms": ARMS.replace("new,0.5", "new,0.4")}, "arm shares sum to 0.9"),
        ({"metrics": METRICS.replace("primary", "secondary")}, "primary metrics are"),
        ({"metrics": METRICS.replace("revenue", "wishes")}, "counts \\['wishes'\\]"),
        ({"experiments": EXPERIMENTS.replace("2026-03", "2025-03")}, "is not after starts_at"),
        ({"arms": ARMS + "old_mail,x,1,random\n"}, "line 4: experiment 'old_mail'"),
        ({"arms": ARMS.replace("share", "part")}, "unknown columns \\['part'\\]"),
        ({"arms": ARMS + "new_mail,x\n"}, "as many cells as columns"),
        ({"experiments": EXPERIMENTS.replace("0-0.5", "half")}, "slots is 'half'"),
        ({"experiments": EXPERIMENTS.replace("a_city=Rome|Oslo", "Rome")}, "audience is"),
        ({"phases": PHASES.replace("new,0.8", "new,0.7")}, "phase 1 has shares"),
    ],
)
def test_faulty_files_are_refused(tmp_path, files, words):
    with pytest.raises(SettingsError, match=words):
        declare(tmp_path, **files)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('name = "m"', 'name = ""'), "at least 1 character"),
        (("planned_effect = 1.0", "planned_effect = inf"), "finite number"),
        (("planned_effect = 1.0", "cap = inf"), "finite number"),
        (("arms", 'segments = ["a_x", "a_x"]\narms'), "segments repeat"),
        (("2026-03-20", "2026-04-01"), "not before ends_at"),
    ],
)
def test_declarations_that_could_never_be_read_are_refused(tmp_path, change, words):
    text = """
[workspace]
name = "x"
[reward]
window_days = 14
[[experiments]]
experiment_id = "e"
control = "a"
starts_at = 2026-03-02T00:00:00Z
ends_at = 2026-04-01T00:00:00Z
arms = [{name = "a", share = 0.5, policy = "champion"}, {name = "b", share = 0.5, policy = "random"}]
metrics = [{name = "m", numerator = "margin", role = "primary", planned_effect = 1.0}]
phases = [{starts_at = 2026-03-20T00:00:00Z, shares = {a = 0.4, b = 0.6}}]
"""
    path = tmp_path / "nba.toml"
    path.write_text(text, encoding="utf-8")
    assert settings.read(tmp_path).experiments[0].experiment_id == "e"
    path.write_text(text.replace(*change, 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=words):
        settings.read(tmp_path)


def test_the_declaration_in_the_guide_can_be_used(tmp_path):
    guide = Path(__file__).parents[2] / "docs" / "experiments-for-marketers.md"
    text = guide.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    (tmp_path / "nba.toml").write_text(f'[workspace]\nname = "x"\n{text}', encoding="utf-8")
    (trial,) = settings.read(tmp_path).experiments
    assert {arm.name for arm in trial.arms} == {"today", "new_model"}
    assert {metric.role for metric in trial.metrics} == {"primary", "secondary", "guardrail"}
