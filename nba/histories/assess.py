"""Is what came in as it should be: findings judged by the workspace's thresholds, as a table and as HTML."""

import calendar
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb
import pyarrow as pa

from nba import tables
from nba.histories import mapping
from nba.histories.quality import ATTRIBUTES, CONSENT, EXTERNAL_CUT, IDENTITY, Row
from nba.settings import Bounds, QualityRules

OK, WARN, STOP, UNKNOWN = "ok", "warning", "stop", "unknown"
_DAYS = 28
_MANY = 10  # rows a day from which on a day without any is no chance
_OF_VOLUMES = ("usual_rows", "volume", "empty_days", "closed_weekdays")
_EPOCH = date(1970, 1, 1)
_OF_REFERENCES = ("unknown_treatments", "unknown_decisions")
_RULES = {
    "stale_days": "stale",
    "in_the_future": "future",
    "known_too_early": "early",
    "empty_days": "empty",
    "files_gone": "gone",
    **dict.fromkeys(_OF_REFERENCES, "references"),
}
# Of who is who: measures that are judged as they are, and those that are a share of customers.
_OF_PERSONS = {"largest": "largest", EXTERNAL_CUT: "cut_external"}
_OF_CUSTOMERS = {
    "merged_now": "merges",
    "split_now": "splits",
    "links_refused": "refused",
    "matches_refused": "refused_matches",
}
SCHEMA = pa.schema(
    [
        ("check", pa.string()),
        ("subject", pa.string()),
        ("status", pa.string()),
        ("value", pa.float64()),
        ("warn", pa.float64()),
        ("stop", pa.float64()),
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class Scan:
    """What a table is made of after a run.

    Attributes:
        rows: What stands after `from` for the rows that the run wrote.
        is_whole: Whether these are all rows of the table.
    """

    rows: str
    is_whole: bool


def measure(
    connection: duckdb.DuckDBPyConnection,
    scans: Mapping[str, Scan],
    past: pa.Table | None,
    at: datetime | None,
) -> list[Row]:
    """Measure the tables that were written: unknown values, rows a day, clocks, references.

    Args:
        connection: DuckDB in UTC.
        scans: Table to its rows.
        past: The quality table before; what a run of new files only cannot know is taken from it.
        at: The moment of the run, by which clocks are judged; None where it is not known.

    Returns:
        Rows of the quality table; the source is the name of the table.
    """
    out: list[Row] = []
    for table in ("orders", "events", "touches", "customers"):
        before = _before(past, table)
        found = _of_table(connection, table, scans[table], before, at) if table in scans else []
        if found and table != "customers":
            found += _volumes(connection, table, scans[table], before, at)
        out += found or [
            row for name, row in before.items() if name not in _OF_REFERENCES or table not in scans
        ]
        newest = next((row[2] for row in out if row[:2] == (table, "newest")), None)
        if at is not None and newest is not None:
            out.append(_stale(table, newest, at))
    if "aliases" in scans and "assignments" in scans:
        query = f"""select count(*) from (
            select count(distinct arm) as n_arms from {scans["assignments"].rows} s
            left join {scans["aliases"].rows} a on a.alias_id = s.customer_id
            group by coalesce(a.customer_id, s.customer_id), experiment_id) where n_arms > 1"""
        n = connection.execute(query).fetchall()[0][0]
        note = "customers in two arms turned out to be one; who was assigned first counts"
        out.append(("aliases", "merged_across_arms", float(n), note))
    if "touches" in scans and "treatments" in scans:
        query = f"""select count(*) filter (treatment_id is not null and treatment_id not in (
            select treatment_id from {scans["treatments"].rows})), count(*) from {scans["touches"].rows}"""
        bad, n = connection.execute(query).fetchall()[0]
        out.append(("touches", "unknown_treatments", bad / n if n else 0.0, "treatments not in the catalog"))
    if "touches" in scans and "decisions" in scans:
        query = f"""select count(*) filter (decision_id is not null and decision_id not in (
            select decision_id from {scans["decisions"].rows})), count(decision_id)
            from {scans["touches"].rows}"""
        bad, n = connection.execute(query).fetchall()[0]
        out.append(("touches", "unknown_decisions", bad / n if n else 0.0, "of touches that name a decision"))
    return out


def aged(quality: pa.Table, at: datetime) -> pa.Table:
    """Give the quality table as of a later moment at which nothing new had come: only rows grow older."""
    rows = [tuple(row.values()) for row in quality.to_pylist() if row["measure"] != "stale_days"]
    rows += [_stale(row[0], row[2], at) for row in rows if row[1] == "newest"]
    return tables.QUALITY.build([dict(zip(tables.QUALITY.columns, row)) for row in rows])


def _stale(table: str, newest: float, at: datetime) -> Row:
    return table, "stale_days", max(0.0, at.timestamp() / 86400 - newest), "days since the newest row"


def _before(past: pa.Table | None, table: str) -> dict[str, Row]:
    # What the run before measured of a table; days since the newest row are counted anew. A source may have
    # the name of a table.
    names = ("known_too_early", "in_the_future", "newest", *_OF_VOLUMES, *_OF_REFERENCES)
    rows = past.to_pylist() if past is not None else []
    return {
        row["measure"]: (table, row["measure"], row["value"], row["note"])
        for row in rows
        if row["source"] == table and (row["measure"] in names or row["measure"].startswith("null_"))
    }


def _of_table(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    scan: Scan,
    before: Mapping[str, Row],
    at: datetime | None,
) -> list[Row]:
    contract = tables.BY_NAME[table]
    fields = [f.name for f in contract.fields if f.nullable and f.name != "known_at"]
    time = mapping.TIMES[table]
    late = f"count(*) filter (known_at < {time})" if table != "customers" else "0"
    moment = f"timestamptz '{at.isoformat()}'" if at is not None else "null::timestamptz"
    counted = ", ".join(
        [
            "count(*)",
            f"count(*) filter ({time} > {moment})",
            late,
            f"epoch(max({time}))",
            *(f"count({name})" for name in fields),
        ]
    )
    n, future, early, newest, *known = connection.execute(f"select {counted} from {scan.rows}").fetchall()[0]
    if not n:
        return []
    out: list[Row] = [(table, f"null_{name}", 1 - k / n, "share unknown") for name, k in zip(fields, known)]
    if table != "customers":
        out.append((table, "known_too_early", early / n, "share of rows known before they happened"))
        # Late rows come in files of their own, and are not the newest.
        last = max(newest / 86400, 0.0 if scan.is_whole else before.get("newest", ("", "", 0.0, ""))[2])
        out.append((table, "newest", last, "newest row, in days since 1970"))
    if at is not None:
        out.append((table, "in_the_future", future / n, f"share of rows after {at:%Y-%m-%d %H:%M} UTC"))
    return out


def _volumes(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    scan: Scan,
    before: Mapping[str, Row],
    at: datetime | None,
) -> list[Row]:
    # The last whole day against the median of four weeks before it. New files are held against what was usual
    # if they tell of a new day that is over; of earlier days they only bring what was late.
    time = mapping.TIMES[table]
    counts = dict(
        connection.execute(
            f"select make_timestamp(epoch_us({time}))::date as day, count(*) as n from {scan.rows}"
            f" group by 1 order by 1 desc limit {_DAYS + 2}"
        ).fetchall()
    )
    newest = max(counts)
    if scan.is_whole and len(counts) > 2:
        days = [newest - timedelta(k) for k in range(1, min(_DAYS + 1, (newest - min(counts)).days) + 1)]
        closed = _closed(counts, days[1:])
        open_days = [day for day in days if counts.get(day) or day.weekday() not in closed]
        if not open_days:  # hardly a row in weeks: days that have some are held against each other
            closed, open_days = set(), sorted(counts, reverse=True)[1:]
        last = open_days[0]
        each = sorted(counts.get(day, 0) for day in open_days[1:]) or [0]
        # Where most days are empty, only those that are not tell what is usual.
        each = each if each[len(each) // 2] else [n for n in each if n] or [0]
        usual, n = float(each[len(each) // 2]), counts.get(last, 0)
        empty = [day for day in open_days if day not in counts]
    else:
        was = {name: before.get(name, ("", "", 0.0, ""))[2] for name in _OF_VOLUMES}
        usual, last, n = was["usual_rows"], newest, counts[newest]
        is_over = at is None or last < at.date()
        begun = int(before["newest"][2]) if "newest" in before else None
        if begun is not None and not (is_over and (last - _EPOCH).days > begun):
            return [before[name] for name in _OF_VOLUMES if name in before]
        closed = {day for day in range(7) if int(was["closed_weekdays"]) >> day & 1}
        between = range((begun or (last - _EPOCH).days) + 1, (last - _EPOCH).days)
        empty = [_EPOCH + timedelta(k) for k in between]
        empty = [day for day in empty if day not in counts and day.weekday() not in closed]
    if not usual:
        return []
    names = ", ".join(calendar.day_name[day] for day in sorted(closed))
    which = ", ".join(map(str, empty[:5]))
    return [
        (table, "usual_rows", usual, "rows a day"),
        (table, "volume", n / usual, f"rows of {last} against the median of the four weeks before"),
        (
            table,
            "empty_days",
            len(empty) if usual >= _MANY else 0.0,
            f"without any row: {which}" if empty else "",
        ),
        (
            table,
            "closed_weekdays",
            float(sum(1 << day for day in closed)),
            f"usually without rows: {names}" if names else "",
        ),
    ]


def _closed(counts: Mapping[date, int], days: Sequence[date]) -> set[int]:
    # Weekdays that mostly have no rows.
    found: dict[int, list[bool]] = {}
    for day in days:
        found.setdefault(day.weekday(), []).append(day in counts)
    return {weekday for weekday, has in found.items() if 2 * sum(has) < len(has) and len(has) > 1}


def judge(quality: pa.Table, rules: QualityRules) -> pa.Table:
    """Hold the quality table against the thresholds.

    Args:
        quality: As ingestion writes it.
        rules: Thresholds; a measure without one is only reported.

    Returns:
        One row per check and subject: its value, from where on it warns or stops, and its status.

    Example:
        >>> rules = QualityRules(duplicates=Bounds(warn=0.1))
        >>> rows = [{"source": "shop", "measure": m, "value": v, "note": ""} for m, v in
        ...         (("rows_in", 10.0), ("duplicates", 2.0))]
        >>> found = judge(tables.QUALITY.build(rows), rules).to_pylist()
        >>> [(row["check"], row["status"]) for row in found if row["subject"] == "shop"]
        [('duplicates', 'warning'), ('quarantined', 'ok')]
    """
    values: dict[str, dict[str, tuple[float, str]]] = {}
    for row in quality.to_pylist():
        values.setdefault(row["source"], {})[row["measure"]] = (row["value"], row["note"])
    out = []
    for source, found in sorted(values.items()):
        if "rows_in" in found:
            n = max(found["rows_in"][0], 1.0)
            for name in ("duplicates", "quarantined", *(["clashes"] if "clashes" in found else [])):
                value, note = found.get(name, (0.0, ""))
                out.append(_finding(name, source, value / n, getattr(rules, name), note))
            if "days_behind" in found and not found.get("records", (0.0, ""))[1].endswith("customers"):
                out.append(_finding("behind", source, *_part(found["days_behind"], rules.behind)))
        for measure in sorted(found):
            out += _of_measure(source, measure, found, rules)
    return pa.Table.from_pylist(out, SCHEMA)


def _of_measure(
    source: str, measure: str, found: Mapping[str, tuple[float, str]], rules: QualityRules
) -> list[dict[str, object]]:
    value, note = found[measure]
    if measure.startswith("null_"):
        bound = rules.nulls.get(f"{source}.{measure[5:]}", Bounds())
        return [_finding("unknown values", f"{source}.{measure[5:]}", value, bound, note)]
    if measure in _RULES:
        return [_finding(measure.replace("_", " "), source, value, getattr(rules, _RULES[measure]), note)]
    if measure == "volume":
        return [_finding("volume", source, value, rules.volume, note, low=True)]
    if source == ATTRIBUTES:
        return [_finding("unfit values", measure, value, rules.unfit, note)]
    if source == IDENTITY:
        return _who_is_who(measure, found, rules)
    if source == CONSENT:
        bound = rules.consent.get(measure.removeprefix("can_"), Bounds())
        return [_finding("consent", measure, value, bound, note, low=True)]
    return []


def _who_is_who(
    measure: str, found: Mapping[str, tuple[float, str]], rules: QualityRules
) -> list[dict[str, object]]:
    value, note = found[measure]
    kind = measure.removeprefix("cut_")
    if kind != measure:
        share = value / max(found.get(f"identifiers_{kind}", (0.0, ""))[0], value, 1.0)
        return [_finding("cut", kind, share, rules.cut, note)]
    n = max(found.get("customers", (0.0, ""))[0], 1.0)
    if measure in _OF_PERSONS:
        check, scale = _OF_PERSONS[measure], 1.0
    elif measure in _OF_CUSTOMERS:
        check, scale = _OF_CUSTOMERS[measure], n
        note = f"{value:,.0f} of {n:,.0f} customers {note}"
    else:
        return []
    return [_finding(check.replace("_", " "), IDENTITY, value / scale, getattr(rules, check), note)]


def _part(found: tuple[float, str], bound: Bounds) -> tuple[float, Bounds, str]:
    return found[0], bound, found[1]


def _finding(
    check: str, subject: str, value: float, bound: Bounds, note: str, *, low: bool = False
) -> dict[str, object]:
    def beyond(limit: float | None) -> bool:
        return limit is not None and (value < limit if low else value > limit)

    status = STOP if beyond(bound.stop) else WARN if beyond(bound.warn) else OK
    return {
        "check": check, "subject": subject, "status": status, "value": value, "warn": bound.warn,
        "stop": bound.stop, "note": note,
    }  # fmt: skip


def page(quality: pa.Table, findings: pa.Table, title: str) -> str:
    """Write the report as one HTML page that needs nothing else."""
    order = {STOP: 0, WARN: 1, UNKNOWN: 2, OK: 3}
    judged = sorted(
        findings.to_pylist(), key=lambda row: (order[row["status"]], row["check"], row["subject"])
    )
    n = {status: sum(row["status"] == status for row in judged) for status in (STOP, WARN)}
    told = f"{n[STOP]} findings stop the run, {n[WARN]} warn, of {len(judged)}."
    return (
        "<!doctype html><meta charset=utf-8>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{told}</p><h2>Checks</h2>"
        + _table(["status", "check", "subject", "value", "warn", "stop", "note"], judged, "status")
        + "<h2>All measures</h2>"
        + _table(["source", "measure", "value", "note"], quality.to_pylist())
    )


_STYLE = (
    "body{font:14px/1.4 system-ui,sans-serif;margin:2rem;max-width:70rem}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #ddd;padding:.25rem .6rem;text-align:left}td.n{text-align:right}"
    ".stop{background:#f8d0d0}.warning{background:#fbeec5}"
)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return f"<td>{html.escape(str(value or ''))}"
    whole = value == round(value) or abs(value) >= 1e4
    return f"<td class=n>{value:,.0f}" if whole else f"<td class=n>{value:,.4g}"


def _table(columns: list[str], rows: list[dict[str, object]], colour: str = "") -> str:
    head = "".join(f"<th>{name}" for name in columns)
    body = []
    for row in rows:
        cells = "".join(_cell(row[name]) for name in columns)
        body.append(f"<tr class='{row[colour] if colour else ''}'>{cells}")
    return f"<table><tr>{head}{''.join(body)}</table>"
