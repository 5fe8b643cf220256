from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nba.errors import DataError, MissingError
from nba.histories import hillstrom

# The columns of the public file, rows made up.
ROWS = """recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend
10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,0,0,0
6,3) $200 - $350,329.08,1,1,Rural,1,Web,No E-Mail,1,0,0
7,2) $100 - $200,180.65,0,1,Urban,1,Multichannel,Mens E-Mail,1,1,29.99
"""


def _file(folder: Path, text: str) -> Path:
    path = folder / "hillstrom.csv"
    path.write_text(text)
    return path


# by hand


def test_arms_become_decisions_of_known_probability(tmp_path: Path) -> None:
    frame = hillstrom.read(_file(tmp_path, ROWS))
    made = hillstrom.history(frame)
    decisions = made["decisions"].to_pandas().set_index("customer_id")
    assert decisions.loc["h000000", "treatment_id"] == "womens_email"
    assert decisions.loc["h000001", "treatment_id"] == "none"
    assert (decisions["p_action"] == 1 / 3).all()
    choices = made["choices"].to_pandas()
    assert choices["is_eligible"].all()
    assert choices.groupby("decision_id")["p_action"].sum().tolist() == pytest.approx([1.0] * 3)
    assert set(choices["decision_id"]) == set(decisions["decision_id"])
    outcomes = made["outcomes"].to_pandas()
    bought = outcomes.set_index("decision_id").filter(like="h000002", axis=0).iloc[0]
    assert bought["is_response"]
    assert bought["reward"] == pytest.approx(29.98)


def test_the_mailings_are_one_whole_and_each_closes_before_the_next(tmp_path: Path) -> None:
    frame = pd.concat([hillstrom.read(_file(tmp_path, ROWS))] * 400, ignore_index=True)
    made = {name: table.to_pandas() for name, table in hillstrom.history(frame).items()}
    decisions = made["decisions"].merge(made["customers"], on="customer_id")
    assert not decisions["customer_id"].duplicated().any()
    assert len(decisions) == len(frame)
    shares = decisions["batch_id"].value_counts(normalize=True)
    for mailing, share in zip(hillstrom.MAILINGS, (0.5, 0.25, 0.25), strict=True):
        assert shares[mailing.batch_id] == pytest.approx(share, abs=0.05)
    moments = made["outcomes"].merge(decisions, on="decision_id").groupby("batch_id")
    closed, decided = moments["closed_at"].max().sort_values(), moments["decided_at"].min().sort_values()
    assert (closed.to_numpy()[:-1] < decided.to_numpy()[1:]).all()
    assert (decisions["decided_at"] - decisions["joined_at"]).nunique() == 1  # no mark of the mailing


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "cannot be read"),
        (ROWS.splitlines()[0] + "\n", "no rows"),
        (ROWS.replace("recency", "age"), "missing columns"),
        (ROWS.replace("Womens E-Mail", "SMS"), "segment has values"),
        (ROWS.replace("329.08", ""), "rows have unknown values"),
        (ROWS.replace("329.08", "much"), "not numbers"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        hillstrom.read(_file(tmp_path, text))


def test_an_absent_file_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist"):
        hillstrom.read(tmp_path / "nothing.csv")


# reference: facts of the public file


@pytest.mark.data
def test_the_public_file_has_its_known_facts(data: Path) -> None:
    frame = hillstrom.read(data / "hillstrom" / "hillstrom.csv")
    assert frame["segment"].value_counts().to_dict() == {
        "Womens E-Mail": 21_387,
        "Mens E-Mail": 21_307,
        "No E-Mail": 21_306,
    }
    visits = frame.groupby("segment")["visit"].mean()
    assert np.allclose(
        visits[["Mens E-Mail", "Womens E-Mail", "No E-Mail"]], [0.1828, 0.1514, 0.1062], atol=5e-5
    )
    assert frame["spend"].mean() == pytest.approx(1.0509, abs=5e-5)
