"""Rules of attribution: fixed shares by position and age of a touch, in DuckDB over `steps`.

A rule's name with `_ads` reads advertising touches only, as if the others were not there; orders that
only intent channels touched then get no credit at all. `last_ad` is last touch, passing over intent
channels where there is any advertising (known as last non-direct click).
"""

import math

import duckdb
import pyarrow as pa

# Shares of one touch in its order; each sums to 1 over the order. n and position count within the order.
_SHARES = {
    "first": "(position = 1)::double",
    "last": "(position = n)::double",
    "last_ad": "(position = last_ad)::double",
    "linear": "1.0 / n",
    "time_decay": "decay / total_decay",
    "position": "case n when 1 then 1.0 when 2 then 0.5"
    " else if(position = 1 or position = n, 0.4, 0.2 / (n - 2)) end",
}
RULES = (*_SHARES, *(f"{name}_ads" for name in _SHARES if name != "last_ad"))


def base(half_life_days: float, rules: tuple[str, ...]) -> str:
    """Write the query of every touch of an order with what the rules need of its order."""
    needs_decay = any(rule.startswith("time_decay") for rule in rules)
    extra = []
    if needs_decay:
        # Relative to the order's youngest touch, so that no share is lost to underflow.
        extra.append(f"pow(0.5, (age_days - min(age_days) over o) / {half_life_days!r}) as decay")
    if "last_ad" in rules:
        extra.append("coalesce(max(if(is_ad, position, null)) over o, n) as last_ad")
    window = "window o as (partition by order_id)" if extra else ""
    inner = f"select {', '.join(['*', *extra])} from steps where is_conversion {window}"
    if not needs_decay:
        return inner
    return f"select *, sum(decay) over (partition by order_id) as total_decay from ({inner})"


def credits(  # noqa: A001
    connection: duckdb.DuckDBPyConnection, rules: tuple[str, ...], half_life_days: float
) -> pa.Table:
    """Share the margin of every order among its touches, by several rules.

    Args:
        connection: Holds `steps` (`nba.attribution.paths.build`).
        rules: Some of `RULES`.
        half_life_days: Of time decay.

    Returns:
        Rows of the `credits` table with a share above 0.
    """
    parts = []
    for is_ads in (False, True):
        chosen = tuple(rule for rule in rules if rule.endswith("_ads") is is_ads)
        if not chosen:
            continue
        plain = tuple(rule.removesuffix("_ads") for rule in chosen)
        source = base(half_life_days, plain)
        if is_ads:
            source = source.replace("from steps where", f"from ({_ADS_ONLY}) where")
        name = f"touched_{'ads' if is_ads else 'all'}"
        connection.execute(f"create or replace temp table {name} as {source}").fetchall()
        for rule, short in zip(chosen, plain):
            parts.append(
                f"select '{rule}' as method, order_id, touch_id, customer_id, channel, treatment_id,"
                f" {_SHARES[short]} as share, {_SHARES[short]} * margin as credit,"
                f" {_SHARES[short]} * revenue as revenue_credit from {name}"
                f" where {_SHARES[short]} > 0"
            )
    return connection.sql(" union all ".join(parts)).to_arrow_table()


def totals_query(rules: tuple[str, ...], half_life_days: float) -> str:
    """Write the query of what each rule (without `_ads`) credits to each channel, over `steps`.

    Time decay needs the sum over an order; one hash aggregate finds it, so that nothing is sorted. It
    holds for lookbacks up to 1,000 half-lives; `credits` has no such bound.
    """
    sums = ", ".join(f"sum({_SHARES[r]}) as {r}, sum({_SHARES[r]} * margin) as {r}_margin" for r in rules)
    decay = f"exp(s.age_days * {-math.log(2) / half_life_days!r})"
    each = f"""
        select s.*, {decay} as decay, o.total_decay
        from steps s join (select order_id, sum({decay}) as total_decay from steps s where is_conversion
            group by order_id) o using (order_id)
        where is_conversion
    """
    source = f"({each})" if "time_decay" in rules else "steps"
    if "last_ad" in rules:
        source = (
            "(select *, coalesce(max(if(is_ad, position, null)) over (partition by order_id), n) as last_ad"
            f" from {source})"
        )
    return f"select channel, {sums} from {source} where is_conversion group by channel order by channel"


_ADS_ONLY = (
    "select * replace (row_number() over (partition by journey_id order by moment, touch_id) as position,"
    " count(*) over (partition by journey_id) as n) from steps where is_ad and is_conversion"
)
