"""SQL of customers that turned out to be one: whose rows and decisions are whose, and which arm goes on.

Decisions of a customer that went into another (an alias) count for the other, from when it is the other.
Arms are those of the id that was assigned first, to whatever experiment: by that id, its *unit*, the customer
is drawn from then on, whichever id goes on. Where both were in an experiment, the unit's assignment stands
and the other is left out; where only one was, that one's stands. Who was never assigned is drawn by the id
of now.
"""

from collections.abc import Collection

DECIDED = ("decisions", "assignments")
_TIMES = {"orders": "ordered_at", "events": "occurred_at", "touches": "touched_at"}
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
    time = _TIMES[name.removesuffix("_earlier")]
    known = f"case when a.since > greatest(r.{time}, r.known_at) then a.since else r.known_at end as known_at"
    once = " where not coalesce(a.since >= r.superseded_at, false)" if name not in _TIMES else ""
    return f"(select r.* replace ({owner}, {known}) from {joined}{once})"
