"""The example workspaces, on the public files where they are, and on an extract of our own everywhere."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from nba import settings
from nba.errors import MissingError
from nba.features import table as features
from nba.history import History
from nba.serving import delivery
from pipelines import ingest
from pipelines.example import EXAMPLES, make_example
from pipelines.hillstrom import hillstrom
from pipelines.online_retail import online_retail

EXTRACTS = Path(__file__).parents[1] / "reference"  # of the simulated company, by public_extracts.py

# by hand


def _mailing(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """A file like Hillstrom's, with an effect of the women's e-mail on those who bought women's things."""
    womens = rng.integers(0, 2, n)
    segment = rng.choice(["Mens E-Mail", "Womens E-Mail", "No E-Mail"], n)
    p = 0.10 + 0.15 * (womens & (segment == "Womens E-Mail")) + 0.02 * (segment == "Mens E-Mail")
    visit = (rng.random(n) < p).astype(int)
    return pd.DataFrame(
        {
            "recency": rng.integers(1, 13, n),
            "history_segment": "1) $0 - $100",
            "history": rng.gamma(2, 100, n).round(2),
            "mens": 1 - womens,
            "womens": womens,
            "zip_code": rng.choice(["Urban", "Rural"], n),
            "newbie": rng.integers(0, 2, n),
            "channel": rng.choice(["Web", "Phone"], n),
            "segment": segment,
            "visit": visit,
            "conversion": 0,
            "spend": 7.0 * visit,
        }
    )


def test_the_mailing_chain_finds_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "mailing.csv"
    _mailing(12_000, np.random.default_rng(1)).to_csv(path, index=False)
    workspace = tmp_path / "workspace"
    result = hillstrom(workspace, path)
    visits = {row["policy"]: row["visits"] for row in result.rows}
    assert visits["personalised"] > max(visits["mens_email to all"], visits["nobody"]) + 0.02
    delivery.verify(result.batch.folder)
    history = History.read(workspace)
    assert history.broken_laws() == []
    again = hillstrom(workspace, path)
    assert not again.batch.is_new
    assert History.read(workspace).version == history.version


def test_the_mailing_chain_runs_on_the_extract(tmp_path: Path) -> None:
    frame = pd.read_csv(EXTRACTS / "mailing.csv")
    result = hillstrom(tmp_path / "workspace", EXTRACTS / "mailing.csv")
    rows = {row["policy"]: row for row in result.rows}
    by_arm = frame.groupby("segment")["visit"].agg(["mean", "sem"])
    for arm, policy in (("Mens E-Mail", "mens_email to all"), ("No E-Mail", "nobody")):
        mean, sem = by_arm.loc[arm]
        assert rows[policy]["visits"] == pytest.approx(mean, abs=3 * sem)  # one half judges, the file is both
    assert rows["personalised"]["visits to"] > rows["nobody"]["visits"]
    delivery.verify(result.batch.folder)
    decided = History.read(tmp_path / "workspace").table("decisions").to_pandas()
    assert (decided["batch_id"] == result.batch.batch_id).sum() == len(frame)


def test_the_shop_chain_runs_on_the_extract(tmp_path: Path) -> None:
    lines = pd.read_parquet(EXTRACTS / "invoices.parquet")
    result = online_retail(tmp_path / "workspace", EXTRACTS / "invoices.parquet")
    invoices = result.sources[0]
    assert invoices["rows_in"] == len(lines)
    assert invoices["quarantined"] == lines["CustomerID"].isna().sum()
    orders = History.read(tmp_path / "workspace").table("orders").to_pandas()
    known = lines.dropna(subset="CustomerID")
    assert len(orders) == known["InvoiceNo"].nunique()
    assert orders["is_return"].sum() == known.loc[known["Quantity"] < 0, "InvoiceNo"].nunique()
    assert orders["revenue"].sum() == pytest.approx((known["Quantity"] * known["UnitPrice"]).sum())
    measures = {row["measure"]: row["value"] for row in result.purchases}
    assert 0.5 < measures["auc"] < 1
    assert result.lifetime[0]["customers"] == known["CustomerID"].nunique()


def test_an_absent_file_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    for run in (hillstrom, online_retail):
        with pytest.raises(MissingError, match="does not exist"):
            run(tmp_path / "workspace", tmp_path / "absent")
    assert not (tmp_path / "workspace").exists()


def test_the_examples_have_catalogs_that_fit() -> None:
    for name in ("online_retail", "complete_journey"):
        found = settings.read(EXAMPLES / name)
        assert settings.read_catalog(EXAMPLES / name, found).treatment_ids[0] == "none"


# reference


@pytest.mark.data
def test_complete_journey_gives_the_known_numbers(tmp_path: Path, data: Path) -> None:
    folder = data / "complete_journey"
    make_example(EXAMPLES / "complete_journey", tmp_path / "w")
    ingest.ingest(tmp_path / "w", data=folder)
    history = History.read(tmp_path / "w")
    lines = pq.ParquetFile(folder / "transactions_sample.parquet").read().to_pandas()
    orders = history.table("orders").to_pandas()
    assert len(orders) == lines["basket_id"].nunique()
    assert orders["revenue"].sum() == pytest.approx(lines["sales_value"].sum())
    redeemed = (
        pq.ParquetFile(folder / "coupon_redemptions.parquet")
        .read()
        .to_pandas()
        .drop_duplicates(["household_id", "coupon_upc", "redemption_date"])
    )
    assert history.table("events").num_rows == len(redeemed)
    people = set(lines["household_id"]) | set(redeemed["household_id"])
    people |= set(
        pq.ParquetFile(folder / "demographics.parquet").read(["household_id"])["household_id"].to_pylist()
    )
    assert set(history.table("customers")["external_id"].to_pylist()) == people
    # New York is five hours behind UTC in January.
    first = lines["transaction_timestamp"].min() + pd.Timedelta(hours=5)
    assert orders["ordered_at"].min() == first.tz_localize("UTC")
    with history.as_of(orders["ordered_at"].max().to_pydatetime()) as snapshot:
        assert features.build(snapshot)["f_tenure_days"].null_count == 0


@pytest.mark.data
def test_on_hillstrom_the_policy_is_worth_what_the_test_says(tmp_path: Path, data: Path) -> None:
    result = hillstrom(tmp_path / "w", data / "hillstrom" / "hillstrom.csv")
    rows = {row["policy"]: row for row in result.rows}
    assert rows["mens_email to all"]["visits"] == pytest.approx(0.1828, abs=0.004)
    assert rows["personalised"]["visits"] > rows["at random"]["visits to"] - 0.01
    assert rows["personalised"]["visits"] > rows["nobody"]["visits to"]


@pytest.mark.data
def test_on_online_retail_purchases_are_foreseen(tmp_path: Path, data: Path) -> None:
    result = online_retail(tmp_path / "w", data / "online_retail" / "online_retail.parquet")
    measures = {row["measure"]: row["value"] for row in result.purchases}
    assert measures["auc"] > 0.7
    assert measures["log_loss"] < measures["log_loss_constant"]
    assert result.lifetime[0]["customers"] == 4372
