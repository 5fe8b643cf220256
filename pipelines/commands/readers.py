"""Commands that read what happened."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from nba.history import History
from pipelines.commands.shown import AtOption, WorkspaceArg, between, cell, moment, out, run, show

PANEL = "What happened"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def analyze(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Read every experiment: verdicts, each arm against its control, segments, effects of treatments."""
    from nba.experiments import judged
    from pipelines import analyze as step

    effects = run(lambda progress: step.analyze(workspace, moment(at), progress=progress)).to_pylist()
    history = History.read(workspace)
    verdicts = history.table("readouts").to_pylist()
    columns = ("experiment_id", "arm", "control", "verdict", "reason", "n_looks", "matured_at", "days_left")
    show(
        "Verdicts, by the rule fixed before the start",
        [{name: row[name] for name in (*columns, "p_srm", "p_traffic")} for row in verdicts],
    )
    for name in dict.fromkeys(row["experiment_id"] for row in verdicts):
        rows = [row for row in effects if row["experiment_id"] == name]
        unit, estimand = next((v["unit"], v["estimand"]) for v in verdicts if v["experiment_id"] == name)
        title = f"Experiment {name}: effects per {unit}, randomised by {unit}"
        whole = [_effect(row) for row in rows if row["segment"] == "all"]
        show(title, whole)
        # Only at the planned end is one reading all that is ever taken.
        over = judged.is_over(next(v for v in verdicts if v["experiment_id"] == name))
        claims = [_claim(row, "" if over else "always_") for row in rows if _holds(row)]
        looks = "" if over else ", at every look"
        if any(row["segment"] != "all" for row in rows):
            show(f"Segments whose effect holds after correction for all that were looked at{looks}", claims)
        out.print(f"Estimand: {estimand}.\n", style="dim", highlight=False, markup=False)
    _treatments(history.table("action_effects").to_pylist())


def _effect(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "metric": row["metric"],
        "arm": f"{row['arm']} against {row['control']}",
        "n": f"{row['n']:,} / {row['n_control']:,}",
        "control's mean": row["mean_control"],
        f"effect ({row['level']:.0%}, for one reading)": between(row["effect"], row["lower"], row["upper"]),
        "valid at every look": _range(row["always_lower"], row["always_upper"]),
        "relative, %": between(*_percent(row)),
        "reason": row["reason"],
    }


def _claim(row: dict[str, Any], valid: str) -> dict[str, Any]:
    names = ("segment", "metric", "arm", "n", "n_control")
    return {name: row[name] for name in names} | {
        "effect": between(row["effect"], row[f"{valid}lower"], row[f"{valid}upper"]),
        "p, corrected": row["p_corrected"],
        "p, segments alike": row["p_heterogeneity"],
    }


def _holds(row: dict[str, Any]) -> bool:
    is_known = row["segment"] != "all" and row["p_corrected"] is not None
    return is_known and row["p_corrected"] < 1 - row["level"]


def _range(lower: float | None, upper: float | None) -> str:
    return "–" if lower is None or upper is None else f"{cell(lower)} to {cell(upper)}"


def _percent(row: dict[str, Any]) -> tuple[float | None, ...]:
    values = (row[f"relative_{end}"] for end in ("effect", "lower", "upper"))
    return tuple(None if value is None else 100 * value for value in values)


def _treatments(rows: list[dict[str, Any]]) -> None:
    names = ("treatment_id", "n", "n_chosen")
    shown = [
        {name: row[name] for name in names}
        | {
            "effect on reward (for one reading)": between(row["effect"], row["lower"], row["upper"]),
            "valid at every look": _range(row["always_lower"], row["always_upper"]),
            "reason": row["reason"],
        }
        for row in rows
    ]
    show("What each treatment changed against no contact, per decision", shown)
    if rows:
        out.print(f"Estimand: {rows[0]['estimand']}.", style="dim", highlight=False, markup=False)


@app.command(rich_help_panel=PANEL)
def plan(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Plan the experiments from the history: customers and days needed, visible effects, an A/A check."""
    from pipelines import plan as step

    found = run(lambda progress: step.plan(workspace, moment(at), progress=progress))
    if found.needs.num_rows:
        show("Customers and days for the planned effect to be seen in 8 of 10 cases", found.needs.to_pylist())
    show("Smallest effect seen in 8 of 10 cases, per customer", found.curve.to_pylist())
    show("Past customers against themselves", found.aa.to_pylist())


@app.command(rich_help_panel=PANEL)
def attribute(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Share the credit of each order among the touches before it, by several methods."""
    from pipelines import attribute as step

    run(lambda progress: step.attribute(workspace, moment(at), progress=progress))
    history = History.read(workspace)
    credited = [row for row in history.table("attribution").to_pylist() if row["period"] == "all"]
    show("Margin credited by each method, against what was caused", _against(credited))
    out.print("×: credited over caused, like with like; !: outside the interval of what was caused.\n")
    caused = [row for row in history.table("incremental").to_pylist() if row["period"] == "all"]
    show("What contact returned on its cost, with intervals", _returns(caused))
    out.print("An interval open above (…) means that no order may have been caused at all.")


def _against(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    shown = []
    for channel in sorted({row["channel"] for row in rows}, key=lambda name: (name == "all", name)):
        mine = {row["method"]: row for row in rows if row["channel"] == channel}
        known = next(iter(mine.values()))
        line: dict[str, Any] = {"channel": channel if channel != "all" else "all advertising"}
        line["caused"] = between(known["incremental"], known["lower"], known["upper"])
        line["source"] = known["source"]
        for method in methods:
            row = mine.get(method)
            mark = "" if row is None or row["ratio"] is None else f" ×{row['ratio']:.2f}"
            line[method] = "–" if row is None else cell(row["credited"]) + mark + "!" * bool(row["warning"])
        shown.append(line)
    return shown


def _returns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {"conversions": "orders caused", "roas": "ROAS", "cost_per_conversion": "cost per order caused",
             "marginal_return": "marginal return"}  # fmt: skip
    return [
        {"level": row["level"], "item": row["item"], "cost": row["cost"]}
        | {shown: between(row[n], row[f"{n}_lower"], row[f"{n}_upper"]) for n, shown in names.items()}
        | {"note": row["reason"]}
        for row in rows
    ]


@app.command(rich_help_panel=PANEL, name="attribute-paths")
def attribute_paths(
    source: Annotated[Path, typer.Argument(help="CSV of path counts, may be gzipped.", show_default=False)],
    target: Annotated[Path, typer.Option("--out", help="Parquet file to write.")] = Path("credits.parquet"),
    intent: Annotated[
        list[str] | None, typer.Option(help="A channel that only follows intent; may be given repeatedly.")
    ] = None,
) -> None:
    """Credit a file of path counts (path, total_conversions, total_conversion_value, total_null)."""
    from pipelines import attribute as step

    table = run(lambda _: step.attribute_paths(source, target, intent or ())).to_pylist()
    for title, is_ads in (("each method", False), ("each method, without the channels of intent", True)):
        shown: dict[str, dict[str, Any]] = {}
        for row in (r for r in table if r["method"].endswith("_ads") is is_ads):
            own = shown.setdefault(row["channel"], {"channel": row["channel"]})
            own[row["method"].removesuffix("_ads")] = row["conversions"]
        if shown:
            show(f"Conversions credited by {title}", list(shown.values()))
    for method, reason in dict.fromkeys((row["method"], row["reason"]) for row in table if row["reason"]):
        out.print(f"{method}: {reason}")
    out.print(f"Written to {target}; transitions of the chains beside it.")


@app.command(rich_help_panel=PANEL)
def clv(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Forecast customer lifetime value."""
    from pipelines import clv as step

    table = run(lambda progress: step.clv(workspace, moment(at), progress=progress))
    history = History.read(workspace)
    show("Customer lifetime value", _groups(history.table("clv_groups").to_pylist()))
    scores = [
        {name: f"{value:%Y-%m-%d}" if name == "origin_at" else value for name, value in row.items()}
        for row in history.table("clv_scores").to_pylist()
    ]
    show("The chosen models on periods that they had not seen", scores)
    risky = table.sort_by([("clv_at_risk", "descending")]).slice(0, 10).to_pylist()
    names = ("customer_id", "n_repeat", "p_alive", "expected_orders", "clv", "clv_at_risk")
    risky = [
        {name: row[name] for name in names} | {"clv": between(row["clv"], row["clv_lower"], row["clv_upper"])}
        for row in risky
        if row["clv_at_risk"]
    ]
    show("Valuable customers at risk: what winning them back would save", risky)
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


@app.command(rich_help_panel=PANEL)
def evaluate(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Estimate what policies would have earned from the logged decisions, and what each part is worth."""
    from pipelines import evaluate as step

    values = run(lambda progress: step.evaluate(workspace, moment(at), progress=progress))
    rows = [row for row in values.to_pylist() if row["batch_id"] == step.ALL]
    show("Reward per decision, over all batches", [_judged(row) for row in rows])
    for row in rows:
        if row["gain"] is not None and row["gain"] == row["gain"]:
            gain = between(row["gain"], row["gain_lower"], row["gain_upper"])
            out.print(f"{row['policy_id']} against the champion, on the same decisions: {gain}")
    if not any(row["estimator"] == "dros" for row in rows):
        out.print(step.NO_CHAMPION)
        return
    found = {table.name: History.read(workspace).table(table.name).to_pylist() for table in step.BESIDE}
    names = ("versus", "method", "reward per decision", "ess", "n", "max_weight", "reason")
    ablations = [_judged(row) | {"doubt": row["doubt"]} for row in found["ablations"]]
    shown = [{n: row[n] for n in (*names, "doubt")} for row in ablations]
    show("The full policy against itself without a part", shown)
    columns = ("segment", "n", "n_nothing", "best", "blocked_total", "reason")
    finder = [{name: row[name] for name in columns} for row in found["value_finder"]]
    show("Customers with nothing good to be proposed", finder)
    checks = [row for row in found["diagnostics"] if row["status"] != "ok"]
    columns = ("policy_id", "check", "status", "value", "limit", "note")
    show(
        "Of what the estimates rest on, not in order",
        [{name: row[name] for name in columns} for row in checks],
    )


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    # One cell for a value and the ends of its interval, which may be unknown.
    known = {name: None if row[name] != row[name] else row[name] for name in ("value", "lower", "upper")}
    told = {"reward per decision": between(known["value"], known["lower"], known["upper"])}
    names = ("policy_id", "estimator", "versus", "method")
    last = ("ess", "n", "max_weight", "reason")
    return {name: row[name] for name in names if name in row} | told | {name: row[name] for name in last}


@app.command(rich_help_panel=PANEL)
def overview(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Gather what the app shows into small tables."""
    from pipelines import overview as step

    report = run(lambda progress: step.overview(workspace, moment(at), progress=progress))
    show("Gathered for the app", report.rows)
