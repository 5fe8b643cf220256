"""The `nba` command: every step of the flow, in the order in which they run."""

import os

# Spinning OpenMP threads collapse on busy machines; this must be set before LightGBM is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nba.errors import NbaError
from nba.history import History
from pipelines.progress import Progress, terminal

T = TypeVar("T")
app = typer.Typer(
    name="nba",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Next-best-action experimentation platform.\n\n"
        "A *workspace* is a folder with `nba.toml`. In the order of the flow: `simulate` makes a world to "
        "try things on, `ingest` reads raw sources into one history, `decide` chooses and delivers a batch, "
        "`respond` lets the simulated world answer, `feedback` gathers outcomes, `train` builds models from "
        "them and registers the policy; `learn` is its nightly form, whose challengers pass `promote` (and "
        "`rollback`); `scenario` asks what if; `analyze`, `attribute`, `clv`, `evaluate` read what happened; "
        "`overview` gathers it for the `app`. `demo` runs all of it."
    ),
)
WorkspaceArg = Annotated[Path, typer.Argument(help="Folder of the workspace.", show_default=False)]
AtOption = Annotated[
    str | None,
    typer.Option("--at", help="The moment to look back from, such as 2026-03-02T06:00Z; now if left out."),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="File or folder that `{data}` in the sources stands for.")
]
_INTERRUPTED = "Interrupted. Nothing is half-written; run the same command again to go on."
console = Console(stderr=True)
# Tables in a file or a pipe are not squeezed into the 80 columns of a terminal that is not there.
out = Console(width=None if sys.stdout.isatty() else 140)


def _run(work: Callable[[Progress], T]) -> T:
    with terminal(console) as progress:
        return work(progress)


def _moment(at: str | None) -> datetime:
    if at is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        hint = "Write it as 2026-03-02, 2026-03-02T06:00Z or 2026-03-02T06:00+01:00."
        raise NbaError(f"--at is {at!r}; expected a date or time in ISO 8601", hint) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _show(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        out.print(f"{title}: nothing to show")
        return
    shown = Table(title=title, title_justify="left")
    for name in rows[0]:
        shown.add_column(name, justify="right" if isinstance(rows[0][name], int | float) else "left")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row.values()))
    out.print(shown)


def _with_interval(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """Put `name`, `name from` and `name to` of a row into one cell each."""
    ends = {f"{name} {end}" for name in names for end in ("from", "to")}
    out = {key: value for key, value in row.items() if key not in ends}
    for name in names:
        low, high = row[f"{name} from"], row[f"{name} to"]
        if low is not None:
            out[name] = f"{row[name]:.3g} ({low:.3g} to {high:.3g})"
    return out


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)


@app.command()
def demo(
    workspace: WorkspaceArg = Path("workspaces/demo"),
    customers: Annotated[int, typer.Option(help="Customers of the simulated world.", min=500)] = 20_000,
    batches: Annotated[int, typer.Option(help="Weekly batches.", min=3)] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
) -> None:
    """Run the whole loop on a simulated world and print what it was worth; goes on where it stopped."""
    from pipelines import demo as step

    result = _run(lambda progress: step.demo(workspace, customers, batches, seed, progress=progress))
    rows = [_with_interval(row, "measured", "true") for row in result.rows]
    _show(f"Incremental value per customer after {batches} weekly batches ({result.currency})", rows)
    out.print(result.note)
    out.print(f"\nOpen the app:      [bold]make app[/]  (or `nba app {workspace}`)")
    out.print(f"Look at the models: `nba mlflow {workspace}`")


@app.command()
def simulate(
    workspace: WorkspaceArg,
    customers: Annotated[int, typer.Option(help="Customers of the world.", min=100)] = 20_000,
    batches: Annotated[int, typer.Option(help="Weekly batches it can answer.", min=1)] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
) -> None:
    """Make a workspace with the raw source files of a simulated company whose truth is known."""
    from pipelines import simulate as step

    _run(lambda progress: step.simulate(workspace, customers, seed, batches, progress=progress))
    out.print(f"Made {workspace}. Next: `nba ingest {workspace}`.")


@app.command()
def ingest(
    workspace: WorkspaceArg,
    data: DataOption = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The moment by which freshness and clocks are judged.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what each source would give.")] = False,
) -> None:
    """Read the raw sources into one history: identities, consent, quarantine, quality (quality.html)."""
    from pipelines import ingest as step

    if check:
        _show("What each source would give", step.check(workspace, data=data).to_pylist())
        return
    moment = _moment(at) if at is not None else None
    report = _run(lambda progress: step.ingest(workspace, data=data, at=moment, progress=progress))
    _show("Ingested", report.rows)
    found = report.findings.to_pylist() if report.findings is not None else []
    if warned := [row for row in found if row["status"] != "ok"]:
        _show(f"Worth a look ({workspace / step.REPORT} has all)", warned)
    if reasons := step.refused(workspace):
        _show("In quarantine, and why (table quarantine has the rows)", reasons)


@app.command()
def example(
    name: Annotated[str, typer.Argument(help="online_retail or complete_journey.", show_default=False)],
    workspace: WorkspaceArg,
) -> None:
    """Copy the settings and catalog of an example, to ingest a public data set or to change for your own."""
    from pipelines.example import EXAMPLES, make_example

    known = sorted(path.name for path in EXAMPLES.iterdir())
    if name not in known:
        raise NbaError(f"there is no example {name!r}", f"Name one of {known}.")
    make_example(EXAMPLES / name, workspace)
    out.print(f"Made {workspace}. Next: `nba ingest {workspace} --check --data FOLDER`.")


@app.command()
def forget(
    workspace: WorkspaceArg,
    identifier: Annotated[str, typer.Argument(help="Any identifier of the person.", show_default=False)],
    kind: Annotated[str | None, typer.Option(help="Its kind, such as email; all if left out.")] = None,
) -> None:
    """Remove a person from every table, and keep it from coming back with the raw files."""
    from pipelines import forget as step

    report = step.forget(workspace, identifier, kind)
    _show("Forgotten", [{"table": name, "rows removed": n} for name, n in report.rows.items()])
    out.print(f"{report.n_identifiers} identifiers; {report.n_staged} staged files will be read again.")
    if report.delivered:
        out.print(f"Delivered batches that still name the person: {', '.join(report.delivered)}")
    out.print("The raw files are yours to clean; until then their rows of this person are passed over.")


@app.command()
def decide(
    workspace: WorkspaceArg,
    at: AtOption = None,
    batch_id: Annotated[
        str | None, typer.Option("--batch", help="Name of the batch; from --at if left out.")
    ] = None,
    corrects: Annotated[
        str | None, typer.Option("--corrects", help="A delivered batch that this one takes the place of.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, spark (as spark-submit says), or a Spark master's URL.")
    ] = "local",
) -> None:
    """Decide one batch for every customer and deliver it as files with a manifest."""
    from pipelines import decide as step

    report = _run(
        lambda progress: step.decide(
            workspace, _moment(at), batch_id, corrects=corrects, engine=engine, progress=progress
        )
    )
    _show(f"Batch {report.batch_id}", report.rows)
    out.print(f"Delivered to {report.folder}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a delivered batch.", show_default=False)],
) -> None:
    """Check a delivered batch as a consumer would: manifest, counts, hashes, contract."""
    from nba.serving import delivery

    delivery.verify(folder)
    out.print(f"{folder} keeps its contract.")


@app.command()
def deliver(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="Batch to send.", show_default=False)],
) -> None:
    """Send a delivered batch to every sink of the workspace; sending it again changes nothing."""
    from pipelines import deliver as step

    _show(f"Batch {batch_id}", _run(lambda progress: step.deliver(workspace, batch_id, progress=progress)))


@app.command()
def nightly(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Ingest, close outcomes, decide, verify, deliver, report, raise alerts; goes on where it failed."""
    from pipelines import nightly as step

    _run(lambda progress: step.nightly(workspace, _moment(at), progress=progress, write=_line))


@app.command()
def weekly(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Train on what has closed, evaluate and register it; goes on where it failed."""
    from pipelines import weekly as step

    _run(lambda progress: step.weekly(workspace, _moment(at), progress=progress, write=_line))


def _line(text: str) -> None:
    # One line of JSON per step, never wrapped: programs read it.
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@app.command()
def respond(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="Batch to answer.", show_default=False)],
) -> None:
    """Let the simulated world read a delivered batch and write the raw files of the following week."""
    from pipelines import simulate as step

    _run(lambda progress: step.respond(workspace, batch_id, progress=progress))
    out.print(f"The week after {batch_id} is in {workspace / 'sources'}. Next: `nba ingest {workspace}`.")


@app.command()
def feedback(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Turn orders and touches into outcomes of decisions whose reward window has closed."""
    from pipelines import feedback as step

    report = _run(lambda progress: step.feedback(workspace, _moment(at), progress=progress))
    _show("Outcomes", report.rows)
    if report.n_corrected:
        out.print(f"{report.n_corrected} earlier outcomes were corrected by what arrived late.")
    if report.faults:
        _show("Touches that count for nothing (table feedback_faults has them)", report.faults)


@app.command()
def train(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Train response and uplift models from closed outcomes and register the policy in MLflow.

    Where nothing was decided yet but orders are known, the chance to buy is learnt instead.
    """
    from pipelines import train as step

    known = History.read(workspace)
    if known.has("orders") and not known.has("decisions"):
        found = _run(lambda progress: step.train_snapshot(workspace, progress=progress))
        rows = [{"measure": name, "value": value} for name, value in found.metrics.items()]
        _show("No decisions yet: trained the chance to buy within 30 days, judged on the last cut-off", rows)
        return
    report = _run(lambda progress: step.train(workspace, _moment(at), compared=True, progress=progress))
    _show(f"Trained {report.policy_id}", report.rows)
    if report.comparison is not None and report.comparison.gate is not None:
        out.print(report.comparison.gate.reason)


@app.command()
def models(
    workspace: WorkspaceArg,
    compare: Annotated[
        tuple[int, int] | None, typer.Option(help="Two versions to put side by side.", show_default=False)
    ] = None,
    delete: Annotated[int | None, typer.Option(help="Put the run of a version into the bin.")] = None,
    restore: Annotated[int | None, typer.Option(help="Take the run of a version out of the bin.")] = None,
) -> None:
    """List the registered models of a workspace, compare two, delete or restore one."""
    from pipelines import models as step

    if delete is not None:
        step.bin_version(workspace, delete)
    if restore is not None:
        step.bin_version(workspace, restore, restore=True)
    if compare is not None:
        _show("Side by side", step.compared(workspace, *compare))
    else:
        _show("Registered models", step.listed(workspace))


@app.command()
def learn(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Nightly: close outcomes, choose memory and capacity on the latest, refit, register a challenger."""
    from pipelines import learn as step

    report = _run(lambda progress: step.learn(workspace, _moment(at), progress=progress))
    if report.candidates:
        shown = sorted(report.candidates, key=lambda row: row["loss"])
        _show("Tried on the latest closed decisions", [
            {name: row[name] for name in ("capacity", "half_life_days", "loss", "gain_se", "is_chosen", "n")}
            for row in shown
        ])  # fmt: skip
    out.print(f"Capacity and half-life: {report.reason}.")
    _show(f"Learnt {report.trained.policy_id}" + ("" if report.trained.is_new else ", as before"),
          report.trained.rows)  # fmt: skip


@app.command()
def analyze(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Read every experiment: verdicts, each arm against its control, segments, effects of treatments."""
    from pipelines import analyze as step

    effects = _run(lambda progress: step.analyze(workspace, _moment(at), progress=progress)).to_pylist()
    history = History.read(workspace)
    verdicts = history.table("readouts").to_pylist()
    columns = ("experiment_id", "arm", "control", "verdict", "reason", "n_looks", "matured_at", "days_left")
    _show(
        "Verdicts, by the rule fixed before the start",
        [{name: row[name] for name in (*columns, "p_srm", "p_traffic")} for row in verdicts],
    )
    for name in dict.fromkeys(row["experiment_id"] for row in verdicts):
        rows = [row for row in effects if row["experiment_id"] == name]
        unit, estimand = next((v["unit"], v["estimand"]) for v in verdicts if v["experiment_id"] == name)
        title = f"Experiment {name}: effects per {unit}, randomised by {unit}"
        whole = [_effect(row) for row in rows if row["segment"] == "all"]
        _show(title, whole)
        claims = [_claim(row) for row in rows if row["segment"] != "all" and _holds(row)]
        if any(row["segment"] != "all" for row in rows):
            _show("Segments whose effect holds after correction for all that were looked at", claims)
        out.print(f"Estimand: {estimand}.\n", style="dim", highlight=False, markup=False)
    _treatments(history.table("action_effects").to_pylist())


def _effect(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": row["metric"],
        "arm": f"{row['arm']} against {row['control']}",
        "n": f"{row['n']:,} / {row['n_control']:,}",
        "control's mean": row["mean_control"],
        f"effect ({row['level']:.0%})": _between(row["effect"], row["lower"], row["upper"]),
        "valid at every look": _range(row["always_lower"], row["always_upper"]),
        "relative, %": _between(*_percent(row)),
        "reason": row["reason"],
    }


def _claim(row: dict[str, Any]) -> dict[str, Any]:
    names = ("segment", "metric", "arm", "n", "n_control")
    return {name: row[name] for name in names} | {
        "effect": _between(row["effect"], row["lower"], row["upper"]),
        "p, corrected": row["p_corrected"],
        "p, segments alike": row["p_heterogeneity"],
    }


def _holds(row: dict[str, Any]) -> bool:
    return row["p_corrected"] is not None and row["p_corrected"] < 1 - row["level"]


def _range(lower: float | None, upper: float | None) -> str:
    return "–" if lower is None or upper is None else f"{_cell(lower)} to {_cell(upper)}"


def _percent(row: dict[str, Any]) -> tuple[float | None, ...]:
    values = (row[f"relative_{end}"] for end in ("effect", "lower", "upper"))
    return tuple(None if value is None else 100 * value for value in values)


def _treatments(rows: list[dict[str, Any]]) -> None:
    names = ("treatment_id", "n", "n_chosen")
    shown = [
        {name: row[name] for name in names}
        | {
            "effect on reward": _between(row["effect"], row["lower"], row["upper"]),
            "valid at every look": _range(row["always_lower"], row["always_upper"]),
            "reason": row["reason"],
        }
        for row in rows
    ]
    _show("What each treatment changed against no contact, per decision", shown)
    if rows:
        out.print(f"Estimand: {rows[0]['estimand']}.", style="dim", highlight=False, markup=False)


@app.command()
def plan(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Plan the experiments from the history: customers and days needed, visible effects, an A/A check."""
    from pipelines import plan as step

    found = _run(lambda progress: step.plan(workspace, _moment(at), progress=progress))
    if found.needs.num_rows:
        _show(
            "Customers and days for the planned effect to be seen in 8 of 10 cases", found.needs.to_pylist()
        )
    _show("Smallest effect seen in 8 of 10 cases, per customer", found.curve.to_pylist())
    _show("Past customers against themselves", found.aa.to_pylist())


@app.command()
def attribute(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Share the credit of each order among the touches before it, by several methods."""
    from pipelines import attribute as step

    _run(lambda progress: step.attribute(workspace, _moment(at), progress=progress))
    history = History.read(workspace)
    credited = [row for row in history.table("attribution").to_pylist() if row["period"] == "all"]
    _show("Margin credited by each method, against what was caused", _against(credited))
    out.print("×: credited over caused, like with like; !: outside the interval of what was caused.\n")
    caused = [row for row in history.table("incremental").to_pylist() if row["period"] == "all"]
    _show("What contact returned on its cost, with intervals", _returns(caused))
    out.print("An interval open above (…) means that no order may have been caused at all.")


def _against(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    shown = []
    for channel in sorted({row["channel"] for row in rows}, key=lambda name: (name == "all", name)):
        mine = {row["method"]: row for row in rows if row["channel"] == channel}
        known = next(iter(mine.values()))
        line: dict[str, Any] = {"channel": channel if channel != "all" else "all advertising"}
        line["caused"] = _between(known["incremental"], known["lower"], known["upper"])
        line["source"] = known["source"]
        for method in methods:
            row = mine.get(method)
            mark = "" if row is None or row["ratio"] is None else f" ×{row['ratio']:.2f}"
            line[method] = "–" if row is None else _cell(row["credited"]) + mark + "!" * bool(row["warning"])
        shown.append(line)
    return shown


def _returns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"conversions": "orders caused", "roas": "ROAS", "cost_per_conversion": "cost per order caused",
             "marginal_return": "marginal return"}  # fmt: skip
    return [
        {"level": row["level"], "item": row["item"], "cost": row["cost"]}
        | {shown: _between(row[n], row[f"{n}_lower"], row[f"{n}_upper"]) for n, shown in names.items()}
        | {"note": row["reason"]}
        for row in rows
    ]


def _between(value: float | None, lower: float | None, upper: float | None) -> str:
    if value is None:
        return "–"
    low, high = ("…" if end is None else _cell(end) for end in (lower, upper))
    return _cell(value) if lower is None and upper is None else f"{_cell(value)} ({low} to {high})"


@app.command(name="attribute-paths")
def attribute_paths(
    source: Annotated[Path, typer.Argument(help="CSV of path counts, may be gzipped.", show_default=False)],
    target: Annotated[Path, typer.Option("--out", help="Parquet file to write.")] = Path("credits.parquet"),
) -> None:
    """Credit a file of path counts (path, total_conversions, total_conversion_value, total_null)."""
    from pipelines import attribute as step

    table = _run(lambda _: step.attribute_paths(source, target)).to_pylist()
    shown: dict[str, dict[str, Any]] = {}
    for row in table:
        shown.setdefault(row["channel"], {"channel": row["channel"]})[row["method"]] = row["conversions"]
    _show("Conversions credited by each method", list(shown.values()))
    for method, reason in dict.fromkeys((row["method"], row["reason"]) for row in table if row["reason"]):
        out.print(f"{method}: {reason}")
    out.print(f"Written to {target}; transitions of the chains beside it.")


@app.command()
def clv(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Forecast customer lifetime value."""
    from pipelines import clv as step

    table = _run(lambda progress: step.clv(workspace, _moment(at), progress=progress))
    history = History.read(workspace)
    _show("Customer lifetime value", _groups(history.table("clv_groups").to_pylist()))
    scores = [
        {name: f"{value:%Y-%m-%d}" if name == "origin_at" else value for name, value in row.items()}
        for row in history.table("clv_scores").to_pylist()
    ]
    _show("The chosen models on periods that they had not seen", scores)
    risky = table.sort_by([("clv_at_risk", "descending")]).slice(0, 10).to_pylist()
    names = ("customer_id", "n_repeat", "p_alive", "expected_orders", "clv", "clv_at_risk")
    risky = [{name: row[name] for name in names} for row in risky if row["clv_at_risk"]]
    _show("Valuable customers at risk: what winning them back would save", risky)
    kinds = dict.fromkeys(zip(table["model_id"].to_pylist(), table["reason"].to_pylist()))
    counted = table.group_by(["model_id", "reason"]).aggregate([("customer_id", "count")]).to_pylist()
    of = {(row["model_id"], row["reason"]): row["customer_id_count"] for row in counted}
    for model_id, reason in kinds:
        if reason:
            out.print(f"{model_id}, {of[model_id, reason]:,} customers: {escape(reason)}")


def _groups(rows: list[dict[str, Any]], most: int = 12) -> list[dict[str, Any]]:
    out = []
    for attribute in sorted({row["attribute"] for row in rows}, key=lambda name: (name != "all", name)):
        mine = sorted(
            (r for r in rows if r["attribute"] == attribute), key=lambda r: -(r["clv_total"] or 0.0)
        )
        out += mine[:most]
    return out


@app.command()
def evaluate(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Estimate what policies would have earned from the logged decisions (off-policy)."""
    from pipelines import evaluate as step

    values = _run(lambda progress: step.evaluate(workspace, _moment(at), progress=progress))
    columns = ["policy_id", "estimator", "value", "lower", "upper", "ess", "n", "reason"]
    _show("Reward per decision", values.select(columns).to_pylist())


@app.command()
def promote(
    workspace: WorkspaceArg,
    at: AtOption = None,
    approver: Annotated[
        str | None, typer.Option(help="Who answers for it; without one the evidence is only shown.")
    ] = None,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Overrule the gate; needs a note.")] = False,
) -> None:
    """Show the evidence for the challenger; with --approver, and if it passes, make it the champion."""
    from pipelines import promote as step

    found = _run(
        lambda progress: step.promote(
            workspace, _moment(at), approver=approver, note=note, force=force, progress=progress
        )
    )
    title = f"Challenger, version {found.challenger}, against the champion, version {found.champion}"
    _show(title, [check._asdict() for check in found.checks])
    if found.is_moved:
        out.print(
            f"Version {found.challenger} is the champion now; `nba rollback` restores {found.champion}."
        )
    else:
        said = (
            "The gate lets it pass; --approver NAME promotes it." if found.is_passed else "It does not pass."
        )
        out.print(said)


@app.command()
def rollback(
    workspace: WorkspaceArg,
    approver: Annotated[str, typer.Option(help="Who answers for it.", show_default=False)],
    at: AtOption = None,
    version: Annotated[
        int | None, typer.Option(help="Version to go back to; the one before the last promotion if left out.")
    ] = None,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Make the champion before the last promotion the champion again."""
    from pipelines import promote as step

    before, after = step.rollback(workspace, _moment(at), approver=approver, version=version, note=note)
    out.print(f"Version {after} is the champion again, in place of {before}.")


@app.command()
def shadow(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="The batch.", show_default=False)],
    alias: Annotated[str, typer.Option(help="The version that decides in the shadow.")] = "challenger",
    at: AtOption = None,
) -> None:
    """Log what another version would have decided in a batch, without delivering anything."""
    from pipelines import shadow as step

    table = _run(lambda progress: step.shadow(workspace, _moment(at), batch_id, alias, progress=progress))
    counts = table.group_by("treatment_id").aggregate([("decision_id", "count"), ("expected_value", "sum")])
    _show(f"What {alias} would have sent", counts.sort_by("treatment_id").to_pylist())


@app.command()
def scenario(
    workspace: WorkspaceArg,
    name: Annotated[str, typer.Option(help="Of the scenario.")] = "what if",
    batch_id: Annotated[
        str | None, typer.Option("--batch", help="Stored batch; the last decided by a model if left out.")
    ] = None,
    capacity: Annotated[list[str] | None, typer.Option(help="channel=contacts; may be repeated.")] = None,
    budget: Annotated[float | None, typer.Option(help="Money per batch.", min=0.0)] = None,
    lever: Annotated[list[str] | None, typer.Option(help="action=weight; may be repeated.")] = None,
    cost: Annotated[list[str] | None, typer.Option(help="treatment=money; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Rule not to apply, as reasons name it.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Action or treatment not to propose.")] = None,
) -> None:
    """Change limits, levers or rules on a stored batch: expected value, volume, cost and prices."""
    from pipelines import scenario as step

    changes = step.Changes(
        {key: int(n) for key, n in step.parse(capacity or [], "--capacity").items()},
        budget,
        step.parse(lever or [], "--lever"),
        step.parse(cost or [], "--cost"),
        tuple(without or ()),
        tuple(stop or ()),
    )
    table = _run(
        lambda progress: step.scenario(workspace, name, changes, batch_id, progress=progress)
    ).to_pylist()
    total = [row for row in table if row["item"] == "total"]
    _show("Expected of the batch, as believed then", [
        {key: row[key] for key in ("scenario", "value", "value_lower", "value_upper", "contacts", "cost")}
        for row in total
    ])  # fmt: skip
    limits = [row for row in table if row["item"] != "total"]
    _show("Limits, and what one more unit would add", [
        {key: row[key] for key in ("scenario", "item", "available", "used", "price")} for row in limits
    ])  # fmt: skip


@app.command()
def overview(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Gather what the app shows into small tables."""
    from pipelines import overview as step

    report = _run(lambda progress: step.overview(workspace, _moment(at), progress=progress))
    _show("Gathered for the app", report.rows)


@app.command()
def hillstrom(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("workspaces/hillstrom"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The public CSV file.", show_default=False)
    ] = None,
) -> None:
    """Run Hillstrom's public e-mail test: learn on one half, judge on the other, decide for everyone."""
    from pipelines import hillstrom as step

    given = _given(
        data, "the MineThatData e-mail challenge file (Kevin Hillstrom, 2008), a CSV of 64,000 rows"
    )
    result = _run(lambda progress: step.hillstrom(workspace, given, progress=progress))
    rows = [_with_interval(row, "visits", "spend") for row in result.rows]
    _show("Per customer of the half that was not learnt from, with 95% intervals", rows)
    _show(f"Decided for everyone: batch {result.batch.batch_id}", result.batch.rows)
    out.print(f"Delivered to {result.batch.folder}")


@app.command(name="online-retail")
def online_retail(
    workspace: Annotated[Path, typer.Argument(help="Folder to make.")] = Path("workspaces/online_retail"),
    data: Annotated[
        Path | None, typer.Option("--data", help="The public file, Parquet.", show_default=False)
    ] = None,
) -> None:
    """Run UCI's Online Retail: unify, features at several cut-offs, chance to buy in 30 days, CLV."""
    from pipelines import online_retail as step

    given = _given(data, "UCI's Online Retail set, saved as Parquet (541,909 rows)")
    result = _run(lambda progress: step.online_retail(workspace, given, progress=progress))
    _show("Ingested", result.sources)
    _show(f"Chance to buy within {step.HORIZON_DAYS} days, judged on the last cut-off", result.purchases)
    _show("Customer lifetime value", result.lifetime)


def _given(data: Path | None, what: str) -> Path:
    if data is None:
        raise NbaError(
            f"--data is missing; expected the path of {what}", "Fetch the file and name it with --data."
        )
    return data


@app.command()
def mlflow(workspace: WorkspaceArg = Path("workspaces/demo"), port: int = 5000) -> None:
    """Open MLflow's pages on the store of a workspace."""
    from pipelines import app as step

    step.run_mlflow(workspace, port)


@app.command(name="app")
def open_app(
    workspace: WorkspaceArg = Path("workspaces/demo"),
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 8501,
) -> None:
    """Open the app for marketers on a workspace."""
    from pipelines import app as step

    step.run(workspace, port)


def main() -> None:
    """Run the command; the user's own mistakes end in one clear message, not a traceback."""
    try:
        # Typer turns Ctrl-C into the number 130, which it returns.
        if app(standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except NbaError as error:
        console.print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 1))
    except (KeyboardInterrupt, typer.Abort):
        console.print(_INTERRUPTED)
        sys.exit(130)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "show"):
            error.show()
            sys.exit(getattr(error, "exit_code", 2))
        if str(error) == "Query interrupted":  # DuckDB's word for Ctrl-C
            console.print(_INTERRUPTED)
            sys.exit(130)
        raise


if __name__ == "__main__":
    main()
