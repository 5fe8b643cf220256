"""The data contract: every table that crosses a boundary, with the unit and meaning of each field.

Kinds: **id** string; **code** string from a closed list; **text** string; **number** float64;
**count** int64; **flag** bool; **time** timestamp[us, UTC]. Suffixes: `_id`, `_at` (time), `_days`;
prefixes: `n_` (count), `p_` (probability), `can_` and `is_` (flag), `f_` (feature), `a_` (attribute of
a customer, as the company names it). Money is in the workspace's currency, net of tax; rates are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nba.tables import decisions, experiments, health, history, policies, summary, value
from nba.tables.decisions import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.experiments import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.fields import TIME as TIME
from nba.tables.fields import Field as Field
from nba.tables.fields import Table as Table
from nba.tables.fields import is_yes as is_yes
from nba.tables.health import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.history import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.policies import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.summary import *  # noqa: F403 - every table is reached as `tables.NAME`
from nba.tables.value import *  # noqa: F403 - every table is reached as `tables.NAME`

_AREAS = (history, decisions, experiments, value, policies, summary, health)
BY_NAME: Mapping[str, Table] = {
    table.name: table for area in _AREAS for table in vars(area).values() if isinstance(table, Table)
}
ALL: tuple[Table, ...] = tuple(BY_NAME.values())


@dataclass(frozen=True)
class Law:
    """A rule across tables, as a query that returns the rows that break it.

    Attributes:
        needs: Tables that must be present for the law to be checked.
        sql: DuckDB query over those tables; no row means that the law holds.
    """

    name: str
    needs: tuple[str, ...]
    sql: str


LAWS: tuple[Law, ...] = (
    Law(
        "chosen treatments exist in the catalog",
        ("decisions", "treatments"),
        "from decisions anti join treatments using (treatment_id) where treatment_id <> 'none'",
    ),
    Law(
        "probabilities within a decision sum to 1",
        ("choices",),
        "select decision_id from choices group by 1 having abs(sum(p_action) - 1) > 1e-9",
    ),
    Law(
        "the chosen treatment's probability is the decision's p_action",
        ("decisions", "choices"),
        "select d.decision_id from decisions d join choices c using (decision_id, treatment_id)"
        " where abs(d.p_action - c.p_action) > 1e-9 or d.p_action <= 0",
    ),
    Law(
        "not eligible means probability 0",
        ("choices",),
        "from choices where not is_eligible and p_action > 0",
    ),
    Law(
        "an outcome closes no earlier than its window",
        ("decisions", "outcomes"),
        "select decision_id from outcomes join decisions using (decision_id)"
        " where closed_at < decided_at + to_days(window_days::integer)",
    ),
    Law(
        "credit shares sum to 1 within order and method",
        ("credits",),
        "select method, order_id from credits group by 1, 2 having abs(sum(share) - 1) > 1e-9",
    ),
    Law("no limit is exceeded", ("batches",), "from batches where used > available + 1e-9"),
    Law(
        "a holdout customer is given none",
        ("decisions",),
        "from decisions where arm = 'holdout' and treatment_id <> 'none'",
    ),
)


def dictionary() -> str:
    """Print the data dictionary, in Markdown (`docs/data-dictionary.md` is this text)."""
    rules = (__doc__ or "").split("\n", 2)[2]
    head = f"# Data dictionary\n\nPrinted from `nba/tables`; do not edit.\n\n{rules}"
    laws = "\n".join(f"- {law.name} ({', '.join(law.needs)})" for law in LAWS)
    pages: Sequence[str] = [table.page() for table in ALL]
    return head.rstrip() + "\n\n" + "\n".join(pages) + f"\n## Laws across tables\n\n{laws}\n"
