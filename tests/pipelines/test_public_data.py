"""The example workspaces, on the public files where they are, and on an extract of our own everywhere."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from nba import settings
from nba.errors import MissingError
from nba.features import table as features
from nba.histories.hillstrom import MAILINGS, WINDOW_DAYS
from nba.history import History
from nba.serving import delivery
from pipelines import evaluate, ingest, learn, promote, scenario
from pipelines.example import EXAMPLES, make_example
from pipelines.hillstrom import DECIDE_AT, HillstromResult, hillstrom
from pipelines.hillstrom import EXAMPLE as HILLSTROM
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
    _mailing(8_000, np.random.default_rng(1)).to_csv(path, index=False)
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


@pytest.fixture(scope="module")
def mailed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HillstromResult]:
    """The workspace of the extract, with models of few trees, and what came of it."""
    workspace = tmp_path_factory.mktemp("mailed") / "workspace"
    make_example(HILLSTROM, workspace)
    toml = workspace / "nba.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "[models]\nfolds = 2\ntrees = 15\n", encoding="utf-8")
    return workspace, hillstrom(workspace, EXTRACTS / "mailing.csv")


def test_the_mailing_chain_runs_on_the_extract(mailed: tuple[Path, HillstromResult]) -> None:
    workspace, result = mailed
    frame = pd.read_csv(EXTRACTS / "mailing.csv")
    rows = {row["policy"]: row for row in result.rows}
    by_arm = frame.groupby("segment")["visit"].agg(["mean", "sem"])
    for arm, policy in (("Mens E-Mail", "mens_email to all"), ("No E-Mail", "nobody")):
        mean, sem = by_arm.loc[arm]
        assert rows[policy]["visits"] == pytest.approx(mean, abs=3 * sem)  # one half judges, the file is both
    assert rows["personalised"]["visits to"] > rows["nobody"]["visits"]
    delivery.verify(result.batch.folder)
    decided = History.read(workspace).table("decisions").to_pandas()
    assert (decided["batch_id"] == result.batch.batch_id).sum() == len(frame)


def test_the_mailings_are_judged_learnt_from_promoted_and_rolled_back(
    mailed: tuple[Path, HillstromResult],
) -> None:
    workspace, _ = mailed
    history = History.read(workspace)
    sizes = dict(history.sql("select batch_id, count(*) as n from outcomes join decisions"
        " using (decision_id) group by 1").to_pandas().itertuples(index=False))  # fmt: skip
    _, judging, last = (mailing.batch_id for mailing in MAILINGS)
    values = evaluate.evaluate(workspace, DECIDE_AT).to_pandas().set_index("estimator")
    assert values.loc["dros", "n"] == sizes[judging] + sizes[last]  # the first champion knows neither
    assert values.loc["dros", "lower"] < values.loc["dros", "value"] < values.loc["dros", "upper"]
    learnt = learn.learn(workspace, MAILINGS[1].sent_at + timedelta(days=WINDOW_DAYS))
    assert (learnt.n_closed, learnt.trained.alias, learnt.trained.is_new) == (0, "challenger", True)
    found = promote.promote(workspace, DECIDE_AT, approver="Ana", force=True, note="a drill")
    checks = {check.check: check for check in found.checks}
    assert checks["decisions that neither has learnt from"].value == sizes[last]
    assert np.isfinite(checks["paired value, lower bound at any look"].value)
    assert promote.rollback(workspace, DECIDE_AT, approver="Ben") == (2, 1)
    fewer = scenario.scenario(workspace, "fewer", scenario.Changes({"email": 300})).to_pylist()
    contacts = {row["scenario"]: row["contacts"] for row in fewer if row["item"] == "total"}
    assert contacts["fewer"] <= 300 < contacts[scenario.AS_DECIDED]
    assert not History.read(workspace).has("corrections")  # outcomes stay as the file has them


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
