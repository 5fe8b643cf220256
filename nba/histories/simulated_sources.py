"""The raw files of the simulated company: several systems, several identifiers, and their usual mess."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from nba.histories import simulated_truth as t
from nba.histories.simulated_rows import TICKET_KINDS, Rows
from nba.histories.simulated_truth import WEEK, Bools, Floats, Ints, Truth, mix, uniform

ZONE = "Europe/Madrid"
JUNK = ("null@null.com", "noreply@tienda.es", "test@test.com")
STATUS = ("sent", "delivered", "bounced", "opened", "clicked", "rejected", "optout")
_WEB_KINDS = ("visit", "pageview", "add_to_cart", "search")
_PAGES = (
    "/",
    "/campaign",
    "/product",
    "/cart",
    "/search?q=rebajas",
    "/search?q=vestido",
    "/search?q=zapatos",
)
_NAMES = ("ana", "luis", "marta", "jorge", "lucia", "pablo", "elena", "david", "sara", "ivan")
_SURNAMES = ("garcia", "lopez", "martin", "ruiz", "perez", "sanz", "moreno", "vidal", "costa", "roca")
_DOMAINS = ("gmail.com", "hotmail.es", "yahoo.es", "correo.es", "outlook.com")
_PRIME = 9_999_991
# Shares, at noise 1: rows that are broken or written twice, people with a second CRM record or a junk address
# there, visits on the browser of somebody else in the house.
_BAD, _TWICE, _DUPLICATE, _JUNK, _SHARED = 0.003, 0.005, 0.02, 0.01, 0.0005


class Directory:
    """Every identifier of every person: the key by which tests judge identity resolution.

    Attributes:
        crm_id, email, phone: Of each person, in clean form.
        card, device, cookies: Loyalty card (null for 40 %), app device, three browsers.
        twin_week: Week in which a second CRM record was made; far off for most.
        twin_id, twin_email, twin_phone: Of the second record; it shares e-mail or phone with the first.
        junk: Whether the CRM holds a junk address instead of the e-mail.
        noise: Factor on all shares of errors.
    """

    def __init__(self, truth: Truth, noise: float = 1.0) -> None:
        n, seed = truth.n, truth.seed
        self.noise = noise
        people = np.arange(n)
        self.truth = truth
        self.crm_id = _numbered("C", _shuffled(people, seed), 7)
        self.twin_id = _numbered("C", _shuffled(people + n, seed), 7)
        self.email = _emails(_shuffled(people, seed + 1))
        self.phone = pc.cast(pa.array(600_000_000 + _shuffled(people, seed + 2) * 10 + people % 10), "string")
        has_card = truth.uniform("card", 0) < 0.6
        cards = _numbered("29", _shuffled(people, seed + 3), 8)
        self.card = pc.if_else(pa.array(has_card), cards, pa.scalar(None, pa.string()))
        self.device = pa.array([f"d{x:016x}" for x in mix(seed, "device", 0, people).tolist()])
        self.cookies = [
            pa.array([f"{x:016x}" for x in mix(seed, f"cookie {i}", 0, people).tolist()]) for i in range(3)
        ]
        self.junk = truth.uniform("junk", 0) < _JUNK * noise
        is_twin = (truth.uniform("twin", 0) < _DUPLICATE * noise) & ~self.junk
        weeks_since = np.maximum(truth.joined_week, -100)
        twin_week = weeks_since + 1 + (truth.uniform("twin week", 0) * 60).astype(np.int64)
        self.twin_week = np.where(is_twin, twin_week, 10_000)
        self.shares_email = truth.uniform("twin shares", 0) < 0.5
        other_email = _emails(_shuffled(people + n, seed + 1))
        self.twin_email = pc.if_else(pa.array(self.shares_email), self.email, other_email)
        self.twin_phone = pc.if_else(pa.array(self.shares_email), pa.scalar(None, pa.string()), self.phone)

    def people(self) -> dict[str, dict[str, int]]:
        """Map identifier kind and clean identifier to the person's number."""
        pairs = {
            "crm_id": [self.crm_id, self.twin_id],
            "email": [self.email, self.twin_email],
            "phone": [self.phone],
            "loyalty_card": [self.card],
            "device": [self.device],
            "cookie": self.cookies,
        }
        return {
            kind: {x: i for column in columns for i, x in enumerate(column.to_pylist()) if x is not None}
            for kind, columns in pairs.items()
        }

    def has_twin(self, who: Ints, at: Ints) -> Bools:
        """Say who had a second CRM record at a moment, shape of `who`."""
        return self.twin_week[who] < (at - self.truth.start) // WEEK


def write_files(folder: Path, label: str, rows: Rows, directory: Directory, weeks: range) -> None:
    """Write one file per source; a file that is there again is the same.

    Args:
        folder: The `sources` folder.
        label: End of the file names.
        rows: Tables of `simulated_rows` that stand in these files.
        directory: Everybody's identifiers.
        weeks: CRM records made in these weeks are written.
    """
    _write(folder / "crm" / f"crm_{label}.csv", lambda f: _crm(f, directory, weeks))
    _write(folder / "orders" / f"orders_{label}.csv", lambda f: _orders(f, rows["orders"], directory))
    _write(folder / "web" / f"web_{label}.jsonl", lambda f: _web(f, rows["web"], directory))
    _write(folder / "tickets" / f"tickets_{label}.csv", lambda f: _tickets(f, rows["tickets"], directory))
    touches = rows["touches"]
    _write(folder / "touchpoints" / f"touchpoints_{label}.parquet", lambda f: _touches(f, touches, directory))


def _write(path: Path, fill: Callable[[io.BytesIO], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    fill(buffer)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(buffer.getbuffer())
    temporary.replace(path)


def _crm(file: io.BytesIO, book: Directory, weeks: range) -> None:
    truth = book.truth
    first = np.flatnonzero(_within(truth.joined_week, weeks))
    twin = np.flatnonzero(_within(book.twin_week, weeks))
    who = np.concatenate([first, twin])
    is_twin = np.arange(len(who)) >= len(first)
    at = np.where(is_twin, truth.start + np.minimum(book.twin_week[who], 9_999) * WEEK, truth.joined_at[who])
    at = at + is_twin * (who % 5 * 24 + 3) * 3_600_000_000
    seed = truth.seed
    email = _choose(is_twin, _take(book.twin_email, who), _take(book.email, who))
    junk = pa.array(np.array(JUNK)[who % len(JUNK)])
    email = _choose(book.junk[who], junk, _messy_email(email, uniform(seed, "crm case", 0, who + is_twin)))
    phone = _choose(is_twin, _take(book.twin_phone, who), _take(book.phone, who))
    no_phone = (uniform(seed, "crm phone", 0, who) < 0.08) & (book.twin_week[who] > 9_999)
    phone = _blank(_messy_phone(phone, uniform(seed, "crm phone form", 0, who + is_twin)), no_phone)
    card = _blank(_take(book.card, who), is_twin)
    consent = truth.consent[who]
    table = pa.table(
        {
            "crm_id": _choose(is_twin, _take(book.twin_id, who), _take(book.crm_id, who)),
            "email": email,
            "phone": phone,
            "card": card,
            "created": _local(at),
            **{f"optin_{c}": pa.array(np.where(consent[:, i], "S", "N")) for i, c in enumerate(t.CHANNELS)},
            "acquisition": pa.array(np.array(t.ACQUISITION)[truth.acquisition[who]]),
            "region": pa.array(np.array(t.REGIONS)[truth.region[who]]),
        }
    )
    _write_csv(file, table)


def _within(week: Ints, weeks: range) -> Bools:
    return (week >= weeks.start) & (week < weeks.stop)


def _orders(file: io.BytesIO, rows: pa.Table, book: Directory) -> None:
    truth = book.truth
    who, key, back = _array(rows, "person"), _array(rows, "key"), _array(rows, "is_return")
    order_id = pc.binary_join_element_wise(
        pa.array(np.where(back, "R", "O")), pc.cast(pa.array(key >> 10), "string"), ""
    )
    seed = truth.seed
    by_store = uniform(seed, "order store", 0, key) < t.STORE_SHARE[truth.kind[who]]
    has_card = _array(_take(book.card, who).is_valid())
    twin = book.has_twin(who, _array(rows, "at")) & (uniform(seed, "order twin", 0, key) < 0.3)
    use_card = by_store & has_card
    use_email = ~by_store & ~book.junk[who]
    crm_id = _choose(twin, _take(book.twin_id, who), _take(book.crm_id, who))
    email = _choose(twin, _take(book.twin_email, who), _take(book.email, who))
    amount, margin = _array(rows, "revenue"), _array(rows, "margin")
    placed, amounts = _local(_array(rows, "at")), _comma(amount)
    bad = uniform(seed, "order bad", 0, key) / max(book.noise, 1e-9)
    placed = _choose(bad < _BAD / 4, pa.scalar("0000-00-00"), placed)
    amounts = _choose((bad >= _BAD / 4) & (bad < _BAD / 2), pa.scalar("n/a"), amounts)
    lost = (bad >= _BAD / 2) & (bad < 0.75 * _BAD)
    order_id = _blank(order_id, (bad >= 0.75 * _BAD) & (bad < _BAD))
    table = pa.table(
        {
            "order_id": order_id,
            "email": _blank(_messy_email(email, uniform(seed, "order case", 0, key)), ~use_email | lost),
            "card": _blank(_take(book.card, who), ~use_card | lost),
            "crm_id": _blank(crm_id, use_card | use_email | lost),
            "placed": placed,
            "amount": amounts,
            "margin": _comma(margin),
            "items": rows["items"],
        }
    )
    twice = np.flatnonzero(uniform(seed, "order twice", 0, key) < _TWICE * book.noise)
    _write_csv(file, pa.concat_tables([table, table.take(pa.array(twice))]), ";")


def _web(file: io.BytesIO, rows: pa.Table, book: Directory) -> None:
    seed = book.truth.seed
    who, key, page = _array(rows, "person"), _array(rows, "key"), _array(rows, "page")
    kind = _array(rows, "kind")
    visit, week = _array(rows, "visit"), _array(rows, "visit_week")
    slot = np.searchsorted([0.82, 0.95], uniform(seed, "browser", week, visit))
    cookie = _choose(slot == 0, _take(book.cookies[0], who), _take(book.cookies[1], who))
    cookie = _choose(slot == 2, _take(book.cookies[2], who), cookie)
    # The computer of somebody else in the house.
    partner = np.where(who ^ 1 < book.truth.n, who ^ 1, who)
    shared = uniform(seed, "shared browser", week, visit) < _SHARED * book.noise
    cookie = _choose(shared, _take(book.cookies[0], partner), cookie)
    login = (uniform(seed, "login", week, visit) < np.where(page == 1, 0.8, 0.55)) & (kind == 0)
    by_email = uniform(seed, "login by", week, visit) < 0.7
    email = _messy_email(_take(book.email, who), uniform(seed, "web case", 0, key))
    user = _choose(
        by_email,
        pc.binary_join_element_wise(',"email":"', email, '"', ""),
        pc.binary_join_element_wise(',"crm_id":"', _take(book.crm_id, who), '"', ""),
    )
    lines = pc.binary_join_element_wise(
        '{"cookie":"',
        cookie,
        '","ts":',
        _messy_time(_array(rows, "at"), uniform(seed, "web time", 0, key)),
        ',"type":"',
        pa.array(np.array(_WEB_KINDS)[kind]),
        '","page":"',
        pa.array(np.array(_PAGES)[page]),
        '"',
        _choose(login, user, pa.scalar("")),
        "}\n",
        "",
    )
    lines = lines.cast(pa.large_string())
    file.write("".join(lines.to_pylist()).encode())


def _messy_time(at: Ints, draw: Floats) -> pa.Array:
    # Mostly epoch milliseconds, else ISO with a zone, which a few clients get wrong by an hour or two.
    ms = pc.cast(pa.array(at // 1000), "string")
    zulu = _iso(at, "Z")
    hour = 3_600_000_000
    out = _choose(draw < 0.6, ms, zulu)
    for low, high, hours, said in (
        (0.90, 0.99, 1, "+01:00"),
        (0.99, 0.997, 9, "+09:00"),
        (0.997, 0.999, -5, "-05:00"),
        (0.999, 1.0, 1, "Z"),
    ):
        part = (draw >= low) & (draw < high)
        out = _choose(part, _iso(at + hours * hour, said), out)
    return out


def _iso(at: Ints, zone: str) -> pa.Array:
    seconds = pa.array(at // 1_000_000).cast(pa.timestamp("s"))
    return pc.strftime(seconds, format=f'"%Y-%m-%dT%H:%M:%S{zone}"')


def _touches(file: io.BytesIO, rows: pa.Table, book: Directory) -> None:
    who, kind, column = _array(rows, "person"), _array(rows, "kind"), _array(rows, "column")
    channel = t.COLUMN_CHANNEL[column]
    on_device = (channel == 2) & np.isin(kind, [1, 3, 4])
    treatment = pa.array(list(t.COLUMN_ID), pa.string()).take(pa.array(column))
    table = pa.table(
        {
            "touch_id": pc.binary_join_element_wise("T", pc.cast(rows["key"], "string"), ""),
            "crm_id": _blank(_take(book.crm_id, who), on_device),
            "device": _blank(_take(book.device, who), channel != 2),
            "at": pa.array(_array(rows, "at")).cast(pa.timestamp("us", tz="UTC")),
            "channel": pa.array(np.array(t.CHANNELS)[channel]),
            "status": pa.array(np.array(STATUS)[kind]),
            "treatment_id": treatment,
            "decision_id": rows["decision_id"],
            "cost": rows["cost"],
        }
    )
    pq.write_table(table, file, compression="zstd")


def _tickets(file: io.BytesIO, rows: pa.Table, book: Directory) -> None:
    seed = book.truth.seed
    who, key, kind = _array(rows, "person"), _array(rows, "key"), _array(rows, "kind")
    draw = uniform(seed, "ticket by", 0, key)
    by_phone = (draw < 0.6) | book.junk[who]
    subject = np.array(["información de envío", "devolución de artículo", "atención telefónica"])[key % 3]
    table = pa.table(
        {
            "ticket_id": pc.binary_join_element_wise("K", pc.cast(rows["key"], "string"), ""),
            "phone": _blank(_messy_phone(_take(book.phone, who), draw / 0.6 % 1), ~by_phone),
            "email": _blank(_messy_email(_take(book.email, who), draw), by_phone),
            "opened": _local(_array(rows, "at")),
            "kind": pa.array(np.array(TICKET_KINDS)[kind]),
            "subject": pa.array(subject),
        }
    )
    buffer = io.BytesIO()
    _write_csv(buffer, table)
    file.write(buffer.getvalue().decode().encode("latin-1"))


def _write_csv(file: io.BytesIO, table: pa.Table, delimiter: str = ",") -> None:
    csv.write_csv(table, file, csv.WriteOptions(delimiter=delimiter, quoting_style="needed"))


def _array(rows: pa.Table | pa.Array, name: str = "") -> np.ndarray:
    column = rows[name] if name else rows
    return column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy()


def _take(column: pa.Array, who: Ints) -> pa.Array:
    return column.take(pa.array(who))


def _choose(condition: Bools, yes: pa.Array | pa.Scalar, no: pa.Array | pa.Scalar) -> pa.Array:
    return pc.if_else(pa.array(condition), yes, no)


def _blank(column: pa.Array, where: Bools) -> pa.Array:
    return pc.if_else(pa.array(where), pa.scalar(None, column.type), column)


def _shuffled(number: Ints, seed: int) -> Ints:
    # A bijection below a prime, so that identifiers are unique and say nothing of the person.
    return (number * (7_654_321 + 2 * (seed % 1000)) + 1_234_567) % _PRIME


def _numbered(prefix: str, number: Ints, digits: int) -> pa.Array:
    return pc.binary_join_element_wise(
        prefix, pc.utf8_lpad(pc.cast(pa.array(number), "string"), digits, "0"), ""
    )


def _emails(number: Ints) -> pa.Array:
    return pc.binary_join_element_wise(
        pa.array(np.array(_NAMES)[number % 10]),
        ".",
        pa.array(np.array(_SURNAMES)[number // 10 % 10]),
        pc.cast(pa.array(number), "string"),
        "@",
        pa.array(np.array(_DOMAINS)[number // 100 % 5]),
        "",
    )


def _messy_email(email: pa.Array, draw: Floats) -> pa.Array:
    out = _choose(draw < 0.10, pc.utf8_title(email), email)
    out = _choose((draw >= 0.10) & (draw < 0.16), pc.utf8_upper(email), out)
    return _choose((draw >= 0.16) & (draw < 0.18), pc.binary_join_element_wise(email, " ", ""), out)


def _messy_phone(phone: pa.Array, draw: Floats) -> pa.Array:
    parts = [pc.utf8_slice_codeunits(phone, 3 * i, 3 * i + 3) for i in range(3)]
    out = pc.binary_join_element_wise("+34", *parts, " ")
    out = _choose(draw < 0.55, phone, out)
    out = _choose(draw < 0.25, pc.binary_join_element_wise("0034", phone, ""), out)
    return _choose(draw < 0.12, pc.binary_join_element_wise(*parts, "-"), out)


def _local(at: Ints) -> pa.Array:
    moments = pa.array(at // 1_000_000).cast(pa.timestamp("s", tz="UTC")).cast(pa.timestamp("s", tz=ZONE))
    return pc.strftime(moments, format="%Y-%m-%d %H:%M:%S")


def _comma(amount: Floats) -> pa.Array:
    cents = np.round(amount * 100).astype(np.int64)
    sign = np.where(cents < 0, "-", "")
    whole, rest = np.abs(cents) // 100, np.abs(cents) % 100
    return pc.binary_join_element_wise(
        pa.array(sign),
        pc.cast(pa.array(whole), "string"),
        pa.array(np.array([f",{i:02d}" for i in range(100)])[rest]),
        "",
    )
