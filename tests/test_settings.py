import tomllib
from pathlib import Path

import pytest

from nba import settings
from nba.errors import DataError, MissingError, SettingsError
from nba.histories import mapping

# by hand

GOOD = """
[workspace]
name = "shop"

[limits]
budget = 100.0
capacity = { email = 10 }
"""


def _write(folder: Path, text: str) -> Path:
    (folder / "nba.toml").write_text(text, encoding="utf-8")
    return folder


def test_defaults_make_a_usable_workspace(tmp_path: Path) -> None:
    found = settings.read(_write(tmp_path, GOOD))
    assert found.limits.capacity == {"email": 10}
    assert sum(arm.share for arm in found.experiment.arms) == 1


def test_the_hash_changes_with_any_setting(tmp_path: Path) -> None:
    one = settings.read(_write(tmp_path, GOOD)).config_hash
    two = settings.read(_write(tmp_path, GOOD.replace("100.0", "101.0"))).config_hash
    assert one != two
    assert len(one) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[limits]\nbudget = 1", "workspace: missing"),
        (GOOD + "colour = 3", "limits.colour: unknown key"),
        (GOOD.replace("100.0", "-5"), "limits.budget: found -5"),
        (GOOD.replace("100.0", "'much'"), "limits.budget: found 'much'"),
        (GOOD + "[experiment]\narms = [{name='holdout', share=0.4, policy='none'}]", "shares sum to 0.4"),
        (GOOD + "[reward]\nwindow_days = 0", "reward.window_days: found 0"),
        (
            GOOD + "[reward]\nwindow_days = 30\n[models]\nvalidation = 'time'\nvalidation_gap_days = 14",
            "validation_gap_days is 14; expected 30 or more, as [reward] window_days",
        ),
        ("[workspace\nname=1", "not valid TOML"),
    ],
)
def test_faults_name_the_key_and_what_was_found(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings.read(_write(tmp_path, text))
    assert expected in str(caught.value)


def test_validation_by_time_waits_as_long_as_outcomes_are_open(tmp_path: Path) -> None:
    asked = GOOD + "[reward]\nwindow_days = 30\n[models]\nvalidation = 'time'\n"
    assert settings.read(_write(tmp_path, asked)).models.validation_gap_days == 30
    assert (
        settings.read(_write(tmp_path, asked + "validation_gap_days = 45")).models.validation_gap_days == 45
    )
    assert settings.read(_write(tmp_path, GOOD)).models.validation_gap_days == 14


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("100.0", "-5") + "[policy]\nfloor = 2\nstrategy = 'magic'"
    with pytest.raises(SettingsError) as caught:
        settings.read(_write(tmp_path, text))
    for key in ("limits.budget", "policy.floor", "policy.strategy"):
        assert key in str(caught.value)


def test_more_sources_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    one = '[[sources]]\nname = "s{}"\ntable = "events"\npath = "a.csv"\nidentifiers = {{ cookie = "c" }}\n'
    read = "columns = { occurred_at = 'at', kind = 'kind' }\n"
    text = GOOD + "".join(one.format(i) + read for i in range(1025))
    with pytest.raises(SettingsError, match="1025 sources; expected at most 1024"):
        settings.read(_write(tmp_path, text))


def test_no_workspace_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nba\.toml does not exist"):
        settings.read(tmp_path)


def test_the_catalog_is_read_and_checked(tmp_path: Path) -> None:
    found = settings.read(_write(tmp_path, GOOD))
    with pytest.raises(MissingError, match="catalog's actions"):
        settings.read_catalog(tmp_path, found)
    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / "actions.csv").write_text("action_id,issue,group,name,margin,lever\na,i,g,A,10,1\n")
    (folder / "treatments.csv").write_text(
        "treatment_id,action_id,channel,cost,cooldown_days\nt,a,sms,0.1,7\n"
    )
    assert settings.read_catalog(tmp_path, found).treatment_ids == ("none", "t")
    (folder / "treatments.csv").write_text(
        "treatment_id,action_id,channel,cost,cooldown_days\nt,a,sms,cheap,7\nu,a,email,,0.5\nv,a,push,0,7\n"
    )
    with pytest.raises(SettingsError, match="cannot be read") as error:
        settings.read_catalog(tmp_path, found)
    assert error.value.message.splitlines()[1:] == [
        "- treatment_id 't': cost is 'cheap'; expected a number",
        "- treatment_id 'u': cost is ''; expected a number",
        "- treatment_id 'u': cooldown_days is '0.5'; expected a number without fraction",
    ]
    (folder / "treatments.csv").write_text("treatment_id,action,channel,cost,cooldown_days\nt,a,sms,1,7\n")
    with pytest.raises(DataError, match="action"):
        settings.read_catalog(tmp_path, found)


def test_the_reference_is_in_step_with_the_settings() -> None:
    page = Path(__file__).parents[1] / "docs" / "workspace.md"
    assert page.read_text(encoding="utf-8") == settings.reference(), "run `make docs`"


def test_every_key_is_explained() -> None:
    bare = [
        line for line in settings.reference().splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert bare == []


def test_the_guide_to_ones_own_data_shows_settings_that_are_valid() -> None:
    text = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text(encoding="utf-8")
    parts = [block.split("```")[0] for block in text.split("```toml\n")[1:]]
    assert len(parts) == 5
    found = settings.Settings.model_validate(tomllib.loads("\n".join(parts)))
    assert "mostrador" in found.identity.junk
    assert [source.format for source in found.sources] == ["csv", "csv", "sql", "csv"]
    for source in found.sources:
        assert mapping.faults(source, found.workspace.timezone, found.identity.external) == []
    assert found.matching.probability == 0.99
    assert found.quality.volume.stop == 0.1
    assert found.features[0].name == "f_gift_orders"
