"""Identifiers: normalised, junk dropped, the rest hashed with the workspace's secret salt.

An e-mail is trimmed, its case and (where the provider ignores them) its dots and +tags are dropped; a
phone number is written as E.164. Only hashes leave the raw files.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import duckdb
import phonenumbers
from phonenumbers.phonemetadata import PhoneMetadata

from nba.errors import SettingsError
from nba.histories.sources import among, literal
from nba.settings import Identity

SALT_FILE = ".salt"
SALT_VARIABLE = "NBA_SALT"
_STRENGTH = ("loyalty_card", "email", "phone", "device", "cookie")
_HASH_DIGITS = 32
_JUNK = (
    "null", "none", "nan", "nil", "na", "n/a", "n.a", "undefined", "unknown", "anonymous", "anon", "anonym",
    "guest", "guest user", "visitor", "nobody", "no one", "test", "dummy", "todo", "tbd", "false", "true",
    "empty", "blank", "missing", "invalid", "default", "not set", "notset", "not provided", "not available",
    "walk-in", "invitado", "invitada", "anonimo", "anónimo", "desconocido", "ninguno", "sin datos", "gast",
    "unbekannt", "invité", "inconnu", "anonyme", "convidado", "ospite",
)  # fmt: skip
_JUNK_MAILBOXES = (
    "null", "none", "nan", "na", "n/a", "undefined", "unknown", "anonymous", "guest", "invitado", "anonimo",
    "nobody", "test", "dummy", "noreply", "no-reply", "no_reply", "no.reply", "donotreply", "do-not-reply",
    "do_not_reply", "noemail", "no-email", "sinemail", "sincorreo",
)  # fmt: skip
# What stands around a word that says that there is nothing: `<none>`, `(not set)`, `#N/A`.
_AROUND = " ()<>[]{}#*'\"_.-"


def salt(workspace: Path) -> str:
    """Give the secret salt of a workspace: `NBA_SALT`, else its `.salt` file, made on first use.

    Raises:
        SettingsError: when the salt is too short to keep anything secret.
    """
    found = os.environ.get(SALT_VARIABLE, "")
    path = workspace / SALT_FILE
    if not found and not path.exists():
        found = secrets.token_hex(32)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(found)
        except FileExistsError:  # another run was faster
            found = ""
    found = found or path.read_text(encoding="utf-8").strip()
    if len(found) < 16:
        where = SALT_VARIABLE if os.environ.get(SALT_VARIABLE) else str(path)
        raise SettingsError(
            f"the salt in {where} has {len(found)} characters; expected 16 or more",
            "Restore the workspace's .salt file, or set NBA_SALT to a long random text and keep it.",
        )
    return found


def fingerprint(secret: str) -> str:
    """Name a salt without telling it, so that another salt is noticed before every id changes."""
    return hashlib.sha256(b"fingerprint|" + secret.encode()).hexdigest()[:8]


def use_salt(connection: duckdb.DuckDBPyConnection, secret: str) -> None:
    """Give a connection the salt with which it hashes identifiers."""
    connection.execute("set variable salt = '" + secret.replace("'", "''") + "'").fetchall()


def ranked(kinds: Iterable[str], external: str) -> list[str]:
    """Order identifier kinds from the strongest to the weakest.

    Example:
        >>> ranked(["cookie", "app_login", "email", "crm_id"], "crm_id")
        ['crm_id', 'email', 'app_login', 'cookie']
    """
    order = [external, *(kind for kind in _STRENGTH if kind != external)]
    between = order.index("device") - 0.5 if "device" in order else len(order)
    place = {kind: float(i) for i, kind in enumerate(order)}
    return sorted(set(kinds), key=lambda kind: (place.get(kind, between), kind))


def normalised(kind: str, text: str, settings: Identity) -> str:
    """Give the SQL that normalises an identifier and makes junk null.

    A phone number needs `phones` instead.

    Args:
        kind: Identifier kind.
        text: SQL of the identifier's text, trimmed.
        settings: How e-mails are written alike; the external kind's values may be short, and of one digit
            over and over, as numbers in a row are; the workspace's own junk.
    """
    external = settings.external
    own = _folded(settings.junk)
    if kind == "email":
        boxes = map(re.escape, (*_JUNK_MAILBOXES, *(word for word in own if "@" not in word)))
        whole = map(re.escape, (word for word in own if "@" in word))
        words = literal("|".join([f"({'|'.join(boxes)})@.*", *whole]))
        return (
            f"case when regexp_full_match({text}, '[^@\\s,;<>]+@[^@\\s,;<>]+\\.[^@\\s.,;<>]{{2,}}')"
            f" and not regexp_full_match(lower({text}), {words}) then {_same_mailbox(text, settings)} end"
        )
    clean = {"loyalty_card": f"upper(regexp_replace({text}, '[\\s-]', '', 'g'))", "device": f"lower({text})"}
    value = clean.get(kind, text)
    first = f"left({value}, 1)"
    # Where one of several cases does not hold the next is looked at, and so within `and`; a look at one
    # character is much cheaper than to strip them all.
    junk = [
        _is_word(value, (*_JUNK, *own)),
        f"contains('0-_. ', {first}) and ltrim({value}, '0-_. ') = ''",
    ]
    if kind == external:
        junk.append(f"{first} = '9' and strlen({value}) > 4 and ltrim({value}, '9') = ''")
    else:
        is_even = f"right({value}, 1) in ({first}, '-')"
        junk += [f"strlen({value}) < 4", f"{is_even} and ltrim({value}, {first} || '-') = ''"]
    return f"case {' '.join(f'when {one} then null' for one in junk)} else {value} end"


def _folded(words: Iterable[str]) -> list[str]:
    return sorted({word.strip().lower() for word in words} - {""})


def _is_word(value: str, words: Sequence[str]) -> str:
    # One expression, which gives up at the first character that no word has there. In `case value when ...`
    # DuckDB works the value out anew for each word: 20 times as long as all else that is done to a CRM id.
    plain = "|".join(re.escape(word) for word in _folded(word.strip(_AROUND) for word in words))
    around = f"[{re.escape(_AROUND)}]*"
    return f"regexp_full_match({value}, {literal(f'(?i){around}({plain}){around}')})"


def _same_mailbox(text: str, settings: Identity) -> str:
    # Domains are never case-sensitive; mailboxes are not either, in practice.
    domain = f"lower(split_part({text}, '@', 2))"
    given = f"split_part({text}, '@', 1)"
    box = plain = f"lower({given})" if settings.email_ignore_case else given
    if settings.email_ignore_tags:
        tagged = among(domain, settings.email_ignore_tags)
        box = f"case when {tagged} then split_part({box}, '+', 1) else {box} end"
    if settings.email_ignore_dots:
        dotted = among(domain, settings.email_ignore_dots)
        box = f"case when {dotted} then replace({box}, '.', '') else {box} end"
    whole = f"lower({text})" if settings.email_ignore_case else f"{plain} || '@' || {domain}"
    # Nearly all addresses are of a domain that means what is written.
    special = {*settings.email_ignore_tags, *settings.email_ignore_dots}
    ends = " or ".join(f"ends_with(lower({text}), {literal('@' + name)})" for name in sorted(special))
    return f"case when {ends} then {box} || '@' || {domain} else {whole} end" if special else whole


def hashed(kind: str, value: str) -> str:
    """Give the SQL of the salted hash of a normalised identifier (variable `salt` of the connection).

    It is a UUID of the first 128 bits of SHA-256; without its dashes it reads as in the identities table.
    """
    return f"unhex(left(sha256(getvariable('salt') || '|{kind}|' || {value}), {_HASH_DIGITS}))::uuid"


def plain_hash(value: str) -> str:
    """Give the SQL of a hash as it reads in the identities table: without dashes."""
    return f"replace({value}::varchar, '-', '')"


def tombstone(value: str) -> str:
    """Give the SQL by which a forgotten identifier is recognised: its salted hash, hashed again."""
    return f"left(sha256(getvariable('salt') || '|forgotten|' || {plain_hash(value)}), {_HASH_DIGITS})"


def phones(texts: Sequence[str], country: str, junk: Sequence[str] = ()) -> list[str | None]:
    """Write phone numbers as E.164; None where it is no valid number, or one that only fills a field.

    A number that is one digit over and over, but for its first (600 000 000), fills a field.

    Numbers in the plain forms of the country are recognised by its published patterns (15 times faster);
    all others go through `phonenumbers`, with the same result.

    Args:
        texts: Distinct texts.
        country: Two-letter country of numbers without prefix.
        junk: Numbers that name nobody, as anyone would write them.

    Example:
        >>> phones(["600 123 456", "+34-600123456", "0034 600.123.456", "000000", "12345"], "ES")
        ['+34600123456', '+34600123456', '+34600123456', None, None]
    """
    quick = _plain_numbers(country.upper())
    none = {quick(text) or _slow_number(text, country.upper()) for text in junk}
    found = (quick(text) or _slow_number(text, country.upper()) for text in texts)
    return [None if number is None or number in none or _is_filler(number) else number for number in found]


def is_country(code: str) -> bool:
    """Say whether a code names a country whose phone numbers are known."""
    return code.upper() in phonenumbers.SUPPORTED_REGIONS


@cache
def _plain_numbers(country: str) -> Callable[[str], str | None]:
    meta = PhoneMetadata.metadata_for_region(country, None)
    if meta is None:
        return lambda _text: None
    kinds = [
        k.national_number_pattern for k in (meta.mobile, meta.fixed_line) if k and k.national_number_pattern
    ]
    prefixes = [f"\\+{meta.country_code}"]
    if meta.international_prefix == "00":
        prefixes.append(f"00{meta.country_code}")
    if meta.national_prefix is None and meta.national_prefix_for_parsing is None:
        prefixes.append("")
    lengths = set(meta.general_desc.possible_length) if meta.general_desc else set()
    plain = re.compile(f"(?:{'|'.join(prefixes)})({'|'.join(f'(?:{kind})' for kind in kinds)})")
    strip = str.maketrans("", "", " .-()")

    def quick(text: str) -> str | None:
        match = plain.fullmatch(text.translate(strip)) if text.isascii() else None
        if match is None or len(match[1]) not in lengths:
            return None
        return f"+{meta.country_code}{match[1]}"

    return quick


def _is_filler(number: str) -> bool:
    return len(set(number[-7:])) == 1 and len(set(_national(number)[1:])) == 1


def _national(number: str) -> str:
    return str(phonenumbers.parse(number).national_number)


def _slow_number(text: str, country: str) -> str | None:
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    number.extension = None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
