"""Make the frozen extracts in the form of the public sets, from the simulated company.

    python tests/reference/public_extracts.py

- `mailing.csv`, twelve columns as Hillstrom's: the world's customers are sent one of two e-mails or none at
  random, and live on for two weeks. `mens` and `womens` say who searched for shoes or dresses before.
- `invoices.parquet`, eight columns as Online Retail's: a year of the world's orders, one row per line,
  returns as invoices that begin with C, a share of the lines without a customer.
"""

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nba.draws import uniform
from nba.histories.simulated import START, World
from nba.history import History
from pipelines import ingest

FOLDER = Path(__file__).parent
ARMS = {"Mens E-Mail": "discount_email", "Womens E-Mail": "collection_email", "No E-Mail": "none"}
PRODUCTS = {"85123A": "WHITE METAL LANTERN", "71053": "RED RETROSPOT BAG", "22423": "CAKE STAND"}
_KNOWN = """
select c.customer_id, c.external_id, c.a_acquisition, c.a_region, c.joined_at,
  (select max(ordered_at) from orders o where o.customer_id = c.customer_id and not is_return) as last_order,
  (select coalesce(sum(revenue), 0) from orders o where o.customer_id = c.customer_id) as history,
  exists (from events e where e.customer_id = c.customer_id and detail like '%zapatos') as mens,
  exists (from events e where e.customer_id = c.customer_id and detail like '%vestido') as womens
from customers c where c.external_id is not null and can_email order by c.external_id"""
_AFTER = """
select c.customer_id,
  exists (from events e where e.customer_id = c.customer_id and kind = 'visit'
          and occurred_at >= $at) as visit,
  (select coalesce(sum(revenue), 0) from orders o
   where o.customer_id = c.customer_id and ordered_at >= $at and not is_return) as spend
from customers c"""


def mailing(workspace: Path) -> pd.DataFrame:
    """Send the e-mails to a world's customers and tell what came of it; one row per customer."""
    world = World.create(5_200, seed=21)
    world.write_workspace(workspace)
    ingest.ingest(workspace)
    known = History.read(workspace).sql(_KNOWN).to_pandas()
    draw = uniform(known["external_id"].astype(str), "mailing")
    arm = np.array(list(ARMS))[np.minimum((3 * draw).astype(int), 2)]
    n = len(known)
    decisions = {
        "decision_id": [f"m-{i}" for i in known["external_id"]],
        "external_id": known["external_id"].astype(str).tolist(),
        "treatment_id": [ARMS[name] for name in arm],
        "decided_at": pa.array([START] * n, pa.timestamp("us", "UTC")),
    }
    world.respond(pa.table(decisions), workspace)
    world.rest(workspace)
    ingest.ingest(workspace)
    after = History.read(workspace).sql(_AFTER, {"at": START}).to_pandas().set_index("customer_id")
    after = after.reindex(known["customer_id"])  # of customers merged since then nothing is known
    keep = after["visit"].notna().to_numpy()
    return _as_public(known, arm, after)[keep]


def _as_public(known: pd.DataFrame, arm: np.ndarray, after: pd.DataFrame) -> pd.DataFrame:
    months = ((pd.Timestamp(START) - known["last_order"]).dt.days // 30 + 1).clip(1, 12).fillna(12)
    channel = known["a_acquisition"].map({"store": "Phone", "referral": "Multichannel"}).fillna("Web")
    zip_code = known["a_region"].map({"Madrid": "Urban", "Cataluña": "Urban", "Galicia": "Rural"})
    spend = after["spend"].to_numpy(float)
    return pd.DataFrame(
        {
            "recency": months.astype(int),
            "history_segment": pd.cut(known["history"], [-1e9, 100, 200, 350, 1e9], labels=list("1234")),
            "history": known["history"].clip(lower=0).round(2),
            "mens": known["mens"].astype(int),
            "womens": known["womens"].astype(int),
            "zip_code": zip_code.fillna("Surburban"),
            "newbie": (known["joined_at"] > pd.Timestamp(START) - pd.Timedelta(days=182)).astype(int),
            "channel": channel,
            "segment": arm,
            "visit": after["visit"].to_numpy(float),
            "conversion": (spend > 0).astype(int),
            "spend": spend.round(2),
        }
    ).astype({"history_segment": str})


def invoices(workspace: Path) -> pa.Table:
    """Live a year without contact and write the orders as lines of invoices."""
    world = World.create(900, seed=22, weeks_before=53, start=datetime(2011, 12, 9, tzinfo=UTC))
    world.write_workspace(workspace)
    ingest.ingest(workspace)
    orders = History.read(workspace).sql("select * from orders order by ordered_at, order_id").to_pandas()
    number = orders["customer_id"].astype("category").cat.codes + 12_346.0
    is_named = uniform(orders["order_id"], "named") < 0.85
    lines = orders.loc[orders.index.repeat(orders["n_items"].clip(1, 6).astype(int))]
    sign = np.where(lines["is_return"], -1, 1)
    turn = lines.groupby("order_id").cumcount().to_numpy()
    each = lines["revenue"].abs() / lines.groupby("order_id")["order_id"].transform("size")
    quantity = 1 + (turn + lines.index.to_numpy()) % 4
    product = np.array(list(PRODUCTS))[(turn + lines.index.to_numpy()) % len(PRODUCTS)]
    invoice = 536_365 + lines.index.to_numpy()
    table = {
        "InvoiceNo": [f"{'C' if s < 0 else ''}{i}" for i, s in zip(invoice, sign)],
        "StockCode": product.tolist(),
        "Description": [PRODUCTS[code] for code in product],
        "Quantity": (sign * quantity).tolist(),
        "InvoiceDate": lines["ordered_at"].dt.strftime("%Y-%m-%d %H:%M:%S").tolist(),
        "UnitPrice": (each / quantity).round(2).tolist(),
        "CustomerID": number.where(is_named)[lines.index].to_numpy(float),
        "Country": ["United Kingdom"] * len(lines),
    }
    return pa.table(table)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        made = mailing(Path(temporary) / "mailing")
        made.astype({"visit": int}).to_csv(FOLDER / "mailing.csv", index=False)
        lines = invoices(Path(temporary) / "invoices")
        pq.write_table(lines, FOLDER / "invoices.parquet", compression="zstd")
    sys.stdout.write(f"{len(made)} customers, {lines.num_rows} lines\n")
