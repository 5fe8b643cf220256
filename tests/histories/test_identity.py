"""Who is who: normalising, salted hashes, components, cuts, stable ids."""

import re
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nba import tables
from nba.errors import SettingsError
from nba.histories import identifiers, identity, linking
from nba.history import connect
from nba.settings import Identity

KINDS = ["crm_id", "email", "phone", "cookie"]
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Found:
    """A resolution and its rows."""

    identities: pa.Table
    told: identity.Resolution

    def __getattr__(self, name: str) -> Any:
        return getattr(self.told, name)


def resolve(seen: list[dict[str, Any]], known: pa.Table | None = None, most: int = 3, **guards: Any) -> Found:
    """Resolve rows such as {"crm_id": "1", "email": "a", "day": 3}."""
    columns: dict[str, Any] = {f"i_{k}": pa.array([r.get(k) for r in seen], pa.string()) for k in KINDS}
    columns["seen_at"] = pa.array([START + timedelta(days=r.get("day", 0)) for r in seen], tables.TIME)
    columns["named_at"] = pa.array(
        [START + timedelta(days=r.get("named", r.get("day", 0))) for r in seen], tables.TIME
    )
    names = sorted({r.get("source", "x") for r in seen})
    columns["source"] = pa.array([names.index(r.get("source", "x")) for r in seen], pa.int64())
    columns["combo"] = pa.array(range(len(seen)), pa.int64())
    with connect() as connection:
        identifiers.use_salt(connection, "some salt that is long")
        connection.register("seen", pa.table(columns))
        if known is not None:
            connection.register("before", known)
        rules = identity.Rules(Identity(max_customers=most, **guards))
        told = identity.resolve(connection, KINDS, names, rules, None if known is None else "before")
        rows = connection.sql(identity.write(connection)).to_arrow_table()
        return Found(tables.IDENTITIES.conform(rows), told)


def groups(found: Found) -> set[frozenset[str]]:
    """The customers as sets of identifiers, whatever their ids."""
    out: dict[str, set[str]] = {}
    for row in found.identities.to_pylist():
        out.setdefault(row["customer_id"], set()).add(row["identifier_hash"])
    return {frozenset(group) for group in out.values()}


def customer(found: Found, digest: str) -> str:
    rows = found.identities.to_pylist()
    return next(row["customer_id"] for row in rows if row["identifier_hash"] == digest)


def normal(kind: str, text: str, junk: tuple[str, ...] = ()) -> str | None:
    with connect() as connection:
        value = identifiers.normalised(kind, "t", Identity(junk=junk))
        query = f"select {value} from (select $text::varchar as t)"
        return connection.execute(query, {"text": text}).fetchall()[0][0]


# by hand


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("email", "Ana.Lopez@Shop.ES", "ana.lopez@shop.es"),
        ("email", "ana@shop", None),
        ("email", "a@b@shop.es", None),
        ("email", "null@shop.es", None),
        ("email", "No-Reply@shop.es", None),
        ("email", "test@shop.es", None),
        ("email", "tester@shop.es", "tester@shop.es"),
        ("email", "Guest@shop.es", None),
        ("crm_id", "GUEST", None),
        ("crm_id", "<Unknown>", None),
        ("crm_id", "(not set)", None),
        ("crm_id", "anónimo", None),
        ("crm_id", "Guesthouse", "Guesthouse"),
        ("crm_id", "#N/A", None),
        ("crm_id", "[[ No One ]]", None),
        ("crm_id", "noone", "noone"),
        ("crm_id", "99999", None),
        ("crm_id", "9999", "9999"),
        ("crm_id", "111111", "111111"),
        ("device", "ANONYMOUS", None),
        ("loyalty_card", "none", None),
        ("email", "A.na+shop@GoogleMail.com", "ana@googlemail.com"),
        ("email", "A.na+shop@xgmail.com", "a.na+shop@xgmail.com"),
        ("crm_id", "7", "7"),
        ("crm_id", "0007", "0007"),
        ("crm_id", "000000", None),
        ("crm_id", "None", None),
        ("cookie", "aB3-x", "aB3-x"),
        ("cookie", "ab", None),
        ("cookie", "xxxxxx", None),
        ("cookie", "11111111", None),
        ("cookie", "xx-xx-", None),
        ("cookie", "x-yx", "x-yx"),
        ("cookie", "0-0_0.", None),
        ("device", "00000000-0000-0000-0000-000000000000", None),
        ("device", "AB12-CD34", "ab12-cd34"),
        ("loyalty_card", "k 4012-3456", "K40123456"),
    ],
)
def test_identifiers_are_normalised_and_junk_is_dropped(kind: str, text: str, expected: str | None) -> None:
    assert normal(kind, text) == expected


def test_ids_that_begin_as_a_word_for_nobody_take_no_longer() -> None:
    def seconds(first: str) -> float:
        with connect() as connection:
            ids = f"(select '{first}' || lpad(i::varchar, 8, '0') as t from range(20000) r(i))"
            value = identifiers.normalised("crm_id", "t", Identity())
            begun = time.process_time()
            assert connection.execute(f"select count({value}) from {ids}").fetchall() == [(20_000,)]
            return time.process_time() - begun

    assert min(seconds("C") for _ in range(3)) < 10 * min(seconds("Z") for _ in range(3)) + 0.05


def test_identifiers_seen_together_are_one_customer() -> None:
    found = resolve(
        [
            {"crm_id": "1", "email": "a"},
            {"email": "a", "cookie": "k"},
            {"cookie": "k", "phone": "p"},
            {"crm_id": "2", "phone": "q"},
            {"cookie": "lonely"},
        ]
    )
    assert groups(found) == {frozenset("1akp"), frozenset("2q"), frozenset({"lonely"})}
    assert found.largest[0] == 4
    assert found.n_found == {"crm_id": 2, "email": 1, "phone": 2, "cookie": 2}


def test_first_seen_and_source_are_those_of_the_oldest_row() -> None:
    found = resolve([{"email": "a", "day": 5, "source": "web"}, {"email": "a", "day": 2, "source": "shop"}])
    (row,) = found.identities.to_pylist()
    assert (row["first_seen_at"], row["source"]) == (START + timedelta(days=2), "shop")


def test_an_identifier_of_too_many_customers_links_nobody() -> None:
    family = [{"crm_id": str(i), "email": "family"} for i in range(3)]
    assert groups(resolve(family)) == {frozenset({"0", "1", "2", "family"})}
    office = [{"crm_id": str(i), "email": "office"} for i in range(4)]
    found = resolve(office)
    assert groups(found) == {frozenset({str(i)}) for i in range(4)}
    assert found.cut.to_pylist() == [
        {"identifier_kind": "email", "identifier_hash": "office", "n_customers": 4}
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("crm_id", "mostrador"),
        ("crm_id", "77-WEB"),
        ("email", "mostrador@shop.es"),
        ("email", "Caja@shop.es"),
        ("cookie", "77-web"),
    ],
)
def test_a_workspace_has_junk_of_its_own(kind: str, text: str) -> None:
    assert normal(kind, text) is not None
    assert normal(kind, text, junk=("Mostrador", "77-web", "caja@shop.es")) is None
    assert normal(kind, f"x{text}", junk=("Mostrador", "77-web", "caja@shop.es")) is not None


def test_phone_numbers_that_fill_a_field_name_nobody() -> None:
    texts = ["600000000", "+34 666 666 666", "600 000 001", "612222222", "91 234 56 78"]
    assert identifiers.phones(texts, "ES") == [None, None, "+34600000001", "+34612222222", "+34912345678"]
    assert identifiers.phones(["912345678"], "ES", junk=("+34 91 234 56 78",)) == [None]


def test_a_crm_id_beside_too_many_emails_is_cut_and_told() -> None:
    web = [{"crm_id": "WEB", "email": f"mail{i}"} for i in range(11)]
    found = resolve([*web, {"crm_id": "7", "email": "mail3"}, {"crm_id": "WEB"}])
    assert groups(found) == {frozenset({f"mail{i}"}) for i in range(11) if i != 3} | {
        frozenset({"7", "mail3"})
    }
    assert found.cut.to_pylist() == [
        {"identifier_kind": "crm_id", "identifier_hash": "WEB", "n_customers": 11}
    ]
    assert len(groups(resolve(web[:10]))) == 1
    # A company that buys as one customer.
    assert len(groups(resolve(web, max_identifiers=11))) == 1
    # Nobody is known by an id that is cut: a kiosk is of those who are.
    kiosk = [{"email": f"mail{i}", "cookie": "kiosk"} for i in range(4)]
    assert set(resolve([*web, *kiosk]).cut["identifier_hash"].to_pylist()) == {"WEB", "kiosk"}


@pytest.mark.parametrize(("office", "others"), [("phone", "email"), ("email", "phone")])
def test_without_crm_ids_an_identifier_beside_too_many_others_is_cut(office: str, others: str) -> None:
    seen = [{office: "office", others: f"x{i}"} for i in range(11)]
    found = resolve(seen)
    assert found.cut["identifier_hash"].to_pylist() == ["office"]
    assert len(groups(found)) == 11
    assert len(groups(resolve(seen[:10]))) == 1


def test_without_crm_ids_a_shared_computer_is_cut_by_who_logs_in() -> None:
    logins = [{"email": f"mail{i}", "cookie": "kiosk"} for i in range(4)]
    found = resolve(logins)
    assert found.cut["identifier_hash"].to_pylist() == ["kiosk"]
    assert len(groups(found)) == 4
    assert len(groups(resolve(logins[:3]))) == 1
    # Four e-mails of one customer are one person, and a phone beside each e-mail is nobody else's.
    assert len(groups(resolve([*logins, *({"crm_id": "1", "email": f"mail{i}"} for i in range(4))]))) == 1
    pair = [{"email": f"mail{i}", "phone": f"tel{i}", "cookie": "home"} for i in range(3)]
    assert resolve(pair).cut.num_rows == 0
    # Cookies tell nothing of how many people there are.
    assert resolve([{"email": "mail", "cookie": f"k{i}"} for i in range(50)]).cut.num_rows == 0


def test_a_shared_computer_is_cut_though_no_crm_id_stands_beside_it() -> None:
    known = [{"crm_id": str(i), "email": f"mail{i}"} for i in range(5)]
    kiosk = [{"email": f"mail{i}", "cookie": "kiosk"} for i in range(5)]
    found = resolve(known + kiosk)
    assert found.cut["identifier_hash"].to_pylist() == ["kiosk"]
    assert len(groups(found)) == 5


def test_known_customers_keep_their_ids() -> None:
    first = resolve([{"cookie": "k", "day": 1}])
    then = resolve([{"cookie": "k", "day": 1}, {"cookie": "k", "crm_id": "1", "day": 3}], first.identities)
    assert customer(then, "1") == customer(first, "k")
    assert then.merged == {}


def test_a_merge_keeps_the_older_id_and_tells_the_others() -> None:
    # Whoever was seen first, be it a visitor whose CRM id came to be known later.
    apart = [{"crm_id": "1", "day": 4}, {"cookie": "k", "day": 2}, {"email": "e", "day": 3}]
    together = [{"crm_id": "1", "cookie": "k", "email": "e", "day": 9}]
    for day, oldest in ((4, "k"), (1, "1")):
        apart[0]["day"] = day
        first = resolve(apart)
        then = resolve(apart + together, first.identities)
        kept = customer(first, oldest)
        assert {row["customer_id"] for row in then.identities.to_pylist()} == {kept}
        assert then.merged == {customer(first, one): kept for one in {"1", "k", "e"} - {oldest}}
        again = resolve(apart + together, then.identities)
        assert (again.merged, again.identities) == ({}, then.identities)


def test_the_age_of_a_customer_is_that_of_any_of_its_identifiers() -> None:
    apart = [{"crm_id": "1", "day": 5}, {"crm_id": "1", "cookie": "k", "day": 7}, {"cookie": "k", "day": 1}]
    apart += [{"crm_id": "2", "email": "e", "day": 4}]
    first = resolve(apart)
    then = resolve([*apart, {"crm_id": "1", "email": "e", "day": 9}], first.identities)
    assert then.merged == {customer(first, "2"): customer(first, "1")}


def test_of_customers_of_one_age_that_of_the_stronger_identifier_goes_on_and_then_the_lesser_id() -> None:
    for strong, weak, together in (
        ({"crm_id": "z"}, {"cookie": "a"}, {"crm_id": "z", "cookie": "a"}),
        ({"email": "b"}, {"email": "y"}, {"crm_id": "1", "email": "b"}),
    ):
        seen = [{**weak, "day": 2}, {**strong, "day": 2}]
        first = resolve(seen)
        more = [together, {"crm_id": "1", "email": "y"}] if "email" in weak else [together]
        then = resolve([*seen, *({**row, "day": 9} for row in more)], first.identities)
        gone, kept = (customer(first, *one.values()) for one in (weak, strong))
        assert then.merged == {gone: kept}


def since(found: Found) -> dict[str, int]:
    """Day since when each identifier is its customer's."""
    return {r["identifier_hash"]: (r["joined_at"] - START).days for r in found.identities.to_pylist()}


def test_an_identifier_is_the_customers_since_links_lead_to_the_one_it_began_with() -> None:
    seen = [
        {"cookie": "k", "day": 0}, {"cookie": "k", "email": "a", "day": 4},
        {"crm_id": "1", "email": "a", "day": 2}, {"crm_id": "1", "cookie": "k", "day": 9},
        {"cookie": "k", "phone": "p", "day": 1}, {"cookie": "j", "day": 3},
    ]  # fmt: skip
    first = resolve(seen)
    assert since(first) == {"1": 2, "a": 2, "k": 4, "p": 4, "j": 3}
    # It stays the one that the customer began with, though others are older.
    assert since(resolve(seen, first.identities)) == since(first)
    # The visitor `j` is the older of two who meet, and goes on from where it began.
    seen = [*seen, {"cookie": "j", "day": -1}]
    then = resolve(seen, first.identities)
    assert since(then) == {**since(first), "j": -1}
    both = [*seen, {"cookie": "j", "phone": "p", "day": 7}]
    merged = resolve(both, then.identities)
    assert since(merged) == {"j": -1, "1": 7, "a": 7, "k": 7, "p": 7}
    assert {at.day - 1 for at in merged.merged_at.values()} == {7}
    assert resolve(both, merged.identities).identities.equals(merged.identities)


def test_what_a_row_told_later_than_it_names_somebody_links_since_then() -> None:
    row = {"crm_id": "1", "email": "a", "named": 1, "day": 60}
    assert since(resolve([row])) == {"1": 1, "a": 60}
    assert since(resolve([row, {"crm_id": "1", "email": "a", "day": 30}])) == {"1": 1, "a": 30}
    # Whoever has no CRM id is there since the strongest of what stands in the row.
    assert since(resolve([{"email": "a", "phone": "p", "named": 1, "day": 60}])) == {"a": 1, "p": 60}


def test_identities_of_earlier_versions_begin_with_the_strongest() -> None:
    seen = [{"cookie": "k", "day": 0}, {"crm_id": "1", "cookie": "k", "day": 5}]
    first = resolve(seen)
    then = resolve(seen, first.identities.drop_columns(["joined_at"]))
    assert then.identities.equals(first.identities)


def test_a_weak_identifier_never_joins_two_known_customers() -> None:
    # A cookie on which two known people log in stays with the one who was there first.
    seen = [
        {"crm_id": "1", "email": "a"}, {"crm_id": "2", "email": "b"},
        {"email": "b", "cookie": "k", "day": 1}, {"email": "a", "cookie": "k", "day": 4},
    ]  # fmt: skip
    found = resolve(seen)
    assert groups(found) == {frozenset("1a"), frozenset("2bk")}
    assert found.n_refused == 1
    assert groups(resolve(seen, weak=())) == {frozenset("12abk")}


def test_a_link_that_was_refused_does_not_date_a_later_merge() -> None:
    # At 25 the cookie is seen with the other customer, and stays; at 45 the two turn out to be one.
    seen = [
        {"crm_id": "0", "email": "a"}, {"crm_id": "1", "email": "b"},
        {"email": "b", "cookie": "k", "day": 10}, {"email": "a", "cookie": "k", "day": 25},
    ]  # fmt: skip
    first = resolve(seen)
    assert groups(first) == {frozenset("0a"), frozenset("1bk")}
    then = resolve([*seen, {"crm_id": "1", "email": "a", "day": 45}], first.identities)
    assert {(at - START).days for at in then.merged_at.values()} == {45}
    root = next(digest for digest, day in since(first).items() if not since(then)[digest])
    mine = {"0", "a"} if root in "0a" else {"1", "b", "k"}
    assert since(then) == {digest: since(first)[digest] if digest in mine else 45 for digest in "01abk"}


def test_a_strong_identifier_joins_two_crm_records_unless_these_are_exclusive() -> None:
    seen = [{"crm_id": "1", "email": "a", "day": 3}, {"crm_id": "2", "email": "a", "day": 5}]
    assert groups(resolve(seen)) == {frozenset("12a")}
    found = resolve(seen, exclusive=("crm_id",))
    assert groups(found) == {frozenset("1a"), frozenset("2")}
    assert found.n_refused == 1


def test_conflicting_exclusive_identifiers_keep_people_apart_wherever_they_meet() -> None:
    # Two phones meet through an e-mail and a CRM id: the oldest links stand.
    seen = [
        {"phone": "p", "email": "a", "day": 1}, {"crm_id": "1", "email": "a", "day": 2},
        {"crm_id": "1", "phone": "q", "day": 3},
    ]  # fmt: skip
    found = resolve(seen, exclusive=("phone",))
    assert groups(found) == {frozenset("1ap"), frozenset("q")}


def test_a_split_leaves_the_id_with_the_strongest_identifier() -> None:
    shared = [{"crm_id": str(i), "email": "e"} for i in range(2)]
    first = resolve(shared)
    then = resolve(shared + [{"crm_id": str(i), "email": "e"} for i in range(2, 5)], first.identities)
    assert then.n_split == 1
    ids = [customer(then, str(i)) for i in range(5)]
    assert ids[0] == customer(first, "0")
    assert len(set(ids)) == 5


def test_identifiers_not_seen_again_are_remembered() -> None:
    first = resolve([{"cookie": "gone", "day": 1}, {"cookie": "here", "day": 2}])
    then = resolve([{"cookie": "here", "day": 2}], first.identities)
    assert then.identities.equals(first.identities)


def test_the_id_comes_from_the_oldest_of_the_strongest() -> None:
    found = resolve(
        [{"crm_id": "new" * 10, "email": "e", "day": 5}, {"crm_id": "old" * 10, "email": "e", "day": 2},
         {"cookie": "older", "email": "e", "day": 1}]
    )  # fmt: skip
    assert set(found.identities["customer_id"].to_pylist()) == {"c" + ("old" * 10)[:20]}


def test_ids_never_clash() -> None:
    first = resolve([{"crm_id": "x" * 20 + "1"}, {"crm_id": "x" * 20 + "2"}])
    assert sorted(first.identities["customer_id"].to_pylist()) == ["c" + "x" * 20, "c" + "x" * 20 + "-2"]


def test_nobody_at_all() -> None:
    assert resolve([]).identities.num_rows == 0


def test_the_salt_is_made_once_and_kept_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBA_SALT", raising=False)
    made = identifiers.salt(tmp_path)
    assert len(made) == 64
    assert identifiers.salt(tmp_path) == made
    assert stat.S_IMODE((tmp_path / ".salt").stat().st_mode) == 0o600
    monkeypatch.setenv("NBA_SALT", "a long text of the company's own")
    assert identifiers.salt(tmp_path) == "a long text of the company's own"
    monkeypatch.setenv("NBA_SALT", "short")
    with pytest.raises(SettingsError, match="NBA_SALT has 5 characters"):
        identifiers.salt(tmp_path)


def test_hashes_depend_on_salt_and_kind() -> None:
    def digest(salt: str, kind: str) -> str:
        with connect() as connection:
            identifiers.use_salt(connection, salt)
            query = f"select {identifiers.hashed(kind, chr(39) + 'ana' + chr(39))}"
            return connection.execute(query).fetchall()[0][0].hex

    found = {
        digest("one salt or another's", "email"),
        digest("another", "email"),
        digest("another", "cookie"),
    }
    assert len(found) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)


# laws

_SEEN = st.lists(
    st.fixed_dictionaries(
        {"day": st.integers(0, 5)},
        optional={kind: st.sampled_from([f"{kind}{i}" for i in range(5)]) for kind in KINDS},
    ),
    max_size=12,
)


@settings(max_examples=6, deadline=None)
@given(_SEEN, st.randoms(use_true_random=False))
def test_order_changes_nothing(seen: list[dict[str, Any]], random: Any) -> None:
    first = resolve(seen, most=2)
    shuffled = list(seen)
    random.shuffle(shuffled)
    assert resolve(shuffled, most=2).identities.equals(first.identities)
    again = resolve(shuffled, first.identities, most=2)
    assert again.identities.equals(first.identities)
    assert again.merged == {}


@settings(max_examples=6, deadline=None)
@given(_SEEN, _SEEN)
def test_every_identifier_keeps_a_customer_when_more_is_learnt(
    before: list[dict[str, Any]], more: list[dict[str, Any]]
) -> None:
    first = resolve(before, most=9)
    then = resolve(before + more, first.identities, most=9)
    assert then.n_split == 0
    assert resolve(before + more, then.identities, most=9).identities.equals(then.identities)
    for row in first.identities.to_pylist():
        expected = then.merged.get(row["customer_id"], row["customer_id"])
        assert customer(then, row["identifier_hash"]) == expected
    assert groups(then) == groups(resolve(before + more, most=9))


_DIGITS = st.text("0123456789", min_size=3, max_size=13)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["ES", "GB", "IT", "FR", "DE", "US", "RU"]),
    st.sampled_from(
        ["", "+34", "0034", "+44", "+49 ", "+39", "0", "34", "+1", "+7", "+33 (0)", "6", "8", "0044 0"]
    ),
    _DIGITS,
)
def test_quick_phone_numbers_are_those_of_the_library(country: str, prefix: str, digits: str) -> None:
    text = prefix + digits
    assert identifiers.phones([text], country) == [identifiers._slow_number(text, country)]


_EDGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=25)


@settings(max_examples=200)
@given(_EDGES, st.lists(st.tuples(st.integers(-1, 2), st.booleans()), min_size=12, max_size=12))
def test_settled_components_keep_every_rule(
    pairs: list[tuple[int, int]], nodes: list[tuple[int, bool]]
) -> None:
    exclusive = np.array([kind for kind, _ in nodes])
    weak = np.array([is_weak and kind != 0 for kind, is_weak in nodes])
    a, b = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    label, refused = linking.settle((a, b, np.arange(len(a))), weak, exclusive, external=0)
    whole = linking.components(12, a, b)
    for part in np.unique(label):
        inside = label == part
        assert len(np.unique(whole[inside])) == 1  # it only ever parts what was together
        for kind in (1, 2):
            assert (exclusive[inside] == kind).sum() <= 1
    strong = ~(weak[a] | weak[b])
    by_strong = linking.components(12, a[strong], b[strong])
    known = exclusive == 0
    together = {(int(by_strong[i]), int(label[i])) for i in np.flatnonzero(known)}
    if not np.isin(exclusive, (1, 2)).any():
        # Without other exclusive kinds, strong links are all followed, and weak ones join no two of them.
        assert len(together) == len(np.unique(label[known]))
    if not refused:
        assert len(np.unique(label)) == len(np.unique(whole))


@settings(max_examples=60)
@given(
    st.sampled_from(["chain", "star", "random"]),
    st.integers(1, 300),
    st.integers(0, 2**32 - 1),
)
def test_labels_are_those_of_a_union_of_sets(shape: str, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = rng.permutation(n)
    if shape == "chain":
        a, b = names[:-1], names[1:]
    elif shape == "star":
        a, b = np.full(n - 1, names[0]), names[1:]
    else:
        a, b = rng.integers(0, n, n // 2), rng.integers(0, n, n // 2)
    assert _alike(linking.components(n, a, b), _flooded(n, a, b))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(-3, 6)), max_size=25),
    st.integers(0, 11),
    st.sampled_from([0, 1, 8]),
)
def test_a_node_is_joined_when_the_links_made_by_then_lead_to_the_root(
    links: list[tuple[int, int, int]], first: int, steps: int
) -> None:
    a, b, since = np.array([link for link in links if link[0] != link[1]], np.int64).reshape(-1, 3).T
    label = linking.components(12, a, b)
    others = [
        int(np.flatnonzero(label == one)[0]) for one in np.unique(label) if one not in (label[first], 5)
    ]
    roots = np.array([first, *others])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linking, "_STEPS", steps)
        found = linking.joined(label, (a, b, since), roots)
    expected = np.full(12, linking.NEVER)
    for at in range(6, -4, -1):
        made = linking.components(12, a[since <= at], b[since <= at])
        expected[np.isin(made, made[roots])] = at
    expected[roots] = linking.ALWAYS
    assert found.tolist() == expected.tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 6)), max_size=22),
    st.lists(st.tuples(st.integers(-1, 1), st.booleans()), min_size=10, max_size=10),
)
def test_a_link_counts_since_its_ends_are_together_by_what_was_known_then(
    links: list[tuple[int, int, int]], nodes: list[tuple[int, bool]]
) -> None:
    a, b, at = np.array([link for link in links if link[0] != link[1]], np.int64).reshape(-1, 3).T
    exclusive = np.array([kind for kind, _ in nodes])
    weak = np.array([is_weak and kind != 0 for kind, is_weak in nodes])
    label = linking.settle((a, b, at), weak, exclusive, external=0)[0]
    inside = label[a] == label[b]
    a, b, at = a[inside], b[inside], at[inside]
    expected = np.full(len(a), 99)
    for day in range(7, -1, -1):
        made = at <= day
        then = linking.settle((a[made], b[made], at[made]), weak, exclusive, external=0)[0]
        expected[made & (then[a] == then[b])] = day
    found = linking.followed(label, (a, b, at), weak[a] | weak[b], exclusive, external=0)
    assert found.tolist() == expected.tolist()


def _flooded(n: int, a: Any, b: Any) -> Any:
    beside: list[list[int]] = [[] for _ in range(n)]
    for one, other in zip(a.tolist(), b.tolist()):
        beside[one].append(other)
        beside[other].append(one)
    label = [-1] * n
    for start in range(n):
        waiting = [start] if label[start] < 0 else []
        while waiting:
            node = waiting.pop()
            if label[node] < 0:
                label[node] = start
                waiting += beside[node]
    return np.array(label)


def _alike(one: Any, other: Any) -> bool:
    pairs = np.unique(np.stack([one, other]), axis=1).shape[1]
    return pairs == len(np.unique(one)) == len(np.unique(other))


# reference


def test_a_long_chain_is_one_customer() -> None:
    n = 200_000
    assert linking.components(n, np.arange(n - 1), np.arange(1, n)).max() == 0


def test_a_long_chain_is_joined_from_its_root_on() -> None:
    n = 100_000
    rng = np.random.default_rng(0)
    names, since = rng.permutation(n), rng.integers(0, 10**6, n - 1)
    label = np.zeros(n, np.int64)
    found = linking.joined(label, (names[:-1], names[1:], since), names[[7]])[names]
    assert found[8:].tolist() == np.maximum.accumulate(since[7:]).tolist()
    assert found[:7].tolist() == np.maximum.accumulate(since[6::-1])[::-1].tolist()


def test_example_numbers_of_every_country_are_recognised() -> None:
    for country in ("ES", "PT", "FR", "GB", "DE", "IT", "US", "MX", "AR", "BR"):
        number = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
        expected = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
        assert identifiers.phones([expected, national], country) == [expected, expected]


def test_components_agree_with_a_plain_search() -> None:
    rng = np.random.default_rng(3)
    seen = [{k: f"{k}{rng.integers(40)}" for k in KINDS if rng.random() < 0.45} for _ in range(60)]
    found = resolve([row for row in seen if row], most=99, weak=())
    pool = [set(row.values()) for row in seen if row]
    whole: list[set[str]] = []
    for group in pool:
        touching = [g for g in whole if g & group]
        whole = [g for g in whole if not g & group] + [group.union(*touching)]
    assert groups(found) == {frozenset(group) for group in whole}
