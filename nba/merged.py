"""SQL of customers that turned out to be one: whose rows and decisions are whose, and which arm goes on.

Decisions and rows of a customer that went into another (an alias) count for the other, from when it is the
other; before that they are its own.
Arms are those of the id that was assigned first, to whatever experiment: by that id, its *unit*, the customer
is drawn from then on, whichever id goes on. Where both were in an experiment, the unit's assignment stands
and the other is left out; where only one was, that one's stands. Who was never assigned is drawn by the id
of now.
"""

from collections.abc import Collection

DECIDED = ("decisions", "assignments")
_TIMES = {"orders": "ordered_at", "events": "occurred_at", "touches": "touched_at"}
_STEP = "coalesce(next_id, customer_id) as next_id, coalesce(next_at, joined_at) as next_at"
_CLUSTER = """(select alias_id as id, customer_id from aliases_then
    union select customer_id, customer_id from aliases_then)"""
_NO_UNITS = "select ''::varchar as customer_id, ''::varchar as unit_id where false"
_NONE_APART = "select ''::varchar as decision_id where false"


def views(decided: Collection[str], moment: str) -> dict[str, str]:
    """Give the views of what was decided for customers of then, name to query, in the order to make them.

    Args:
        decided: Which of `DECIDED` there are, as views `<name>_raw` beside `aliases_then`; none where there
            are no aliases.
        moment: SQL of the moment that is looked back from.

    Returns:
        `<name>_all` of each; `units` (customer_id, unit_id), a row for each customer that another went into
        and that was assigned under any of its ids; `decided_apart` (decision_id), what was decided by
        assignments that are left out.
    """
    out = {}
    if "assignments" in decided:
        out["units"] = f"""select c.customer_id, c.id as unit_id
            from assignments_raw s join {_CLUSTER} c on c.id = s.customer_id where s.assigned_at < {moment}
            qualify row_number() over (
                partition by c.customer_id order by s.assigned_at, c.id <> c.customer_id, c.id) = 1"""
        # By the unit itself first, then by whoever came first.
        out["assigned_merged"] = f"""select s.*, u.customer_id as now_id, row_number() over (
                partition by u.customer_id, s.experiment_id
                order by s.customer_id <> u.unit_id, s.assigned_at, s.arm) as turn
            from assignments_raw s join {_CLUSTER} c on c.id = s.customer_id
            join units u on u.customer_id = c.customer_id where s.assigned_at < {moment}"""
        out["assignments_all"] = f"""from assignments_raw where assigned_at < {moment}
                and customer_id not in (select id from {_CLUSTER})
            union all by name
            select * exclude (now_id, turn) replace (now_id as customer_id)
            from assigned_merged where turn = 1"""
    else:
        out["units"] = _NO_UNITS
    if "decisions" in decided:
        out["decisions_all"] = """select d.* replace (coalesce(a.customer_id, d.customer_id) as customer_id)
            from decisions_raw d left join aliases_then a on a.alias_id = d.customer_id"""
    apart = """select d.decision_id from decisions_raw d
        semi join (from assigned_merged where turn > 1) s using (customer_id, experiment_id, arm)"""
    out["decided_apart"] = apart if len(decided) == len(DECIDED) else _NONE_APART
    return out


def moved(name: str, rows: str, aliases: str, *, is_dated: bool) -> str:
    """Give the rows of a table of ingestion, those of aliases as the other's, from when it is the other.

    What they were before, `held` gives.

    Args:
        name: The table.
        rows: SQL of its rows as they stand on disk.
        aliases: SQL of the rows of `aliases`.
        is_dated: Whether aliases tell since when; those of earlier versions do not.
    """
    since = "joined_at" if is_dated else "null::timestamptz"
    pending = f"(select alias_id, customer_id as now_id, {since} as since from {aliases} where is_pending)"
    joined = f"{rows} r left join {pending} a on a.alias_id = r.customer_id"
    owner = "coalesce(a.now_id, r.customer_id) as customer_id"
    if not is_dated:
        return f"(select r.* replace ({owner}) from {joined})"
    if name == "identities":
        return f"(select r.* replace ({owner}, greatest(r.joined_at, a.since) as joined_at) from {joined})"
    known = f"{_raised(f'r.{_TIMES[name]}', 'a')} as known_at"
    return f"(select r.* replace ({owner}, {known}) from {joined})"


def held(name: str, rows: str, aliases: str) -> str:
    """Give the rows of aliases as their own, and as those of whoever they went into on the way.

    Args:
        name: A table of ingestion.
        rows: SQL of its rows as they stand on disk.
        aliases: SQL of the rows of `aliases`.

    Returns:
        SQL of rows of the table, with `superseded_at`: until when they were so.
    """
    walk = f"""(with recursive step as (select alias_id, is_pending, {_STEP} from {aliases}),
        walk as (
            select alias_id, alias_id as holder, null::timestamptz as since, next_at as until, next_id
            from step where is_pending union all
            select w.alias_id, w.next_id, w.until, s.next_at, s.next_id
            from walk w join step s on s.alias_id = w.next_id)
        select * exclude (next_id) from walk)"""
    if name == "identities":
        begins, known = "r.joined_at", "greatest(r.joined_at, w.since) as joined_at"
    else:
        time = f"r.{_TIMES[name]}"
        begins, known = f"{time}, r.known_at", f"{_raised(time, 'w')} as known_at"
    return f"""(select r.* replace (holder as customer_id, {known}), until as superseded_at
        from {rows} r join {walk} w on w.alias_id = r.customer_id
        where until > greatest({begins}, w.since))"""


def then(aliases: str, moment: str) -> str:
    """Give the aliases as they were known at a moment (alias_id, customer_id): each to who it was by then.

    Args:
        aliases: SQL of the rows of `aliases`.
        moment: SQL of the moment.
    """
    return f"""with recursive step as (
            select alias_id, next_id as customer_id from (select alias_id, {_STEP} from {aliases})
            where next_at is null or next_at < {moment}),
        walk as (from step union
            select w.alias_id, s.customer_id from walk w join step s on s.alias_id = w.customer_id)
        select w.* from walk w anti join step s on s.alias_id = w.customer_id"""


def _raised(time: str, by: str) -> str:
    return f"case when {by}.since > greatest({time}, r.known_at) then {by}.since else r.known_at end"
