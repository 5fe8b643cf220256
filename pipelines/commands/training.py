"""Commands that train, judge and promote."""

from typing import Annotated

import typer

from nba import settings
from nba.errors import DataError
from nba.history import History
from pipelines.commands.shown import AtOption, WorkspaceArg, moment, out, run, show, waiting

PANEL = "Models and policies"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def train(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Train response and uplift models from closed outcomes and register the policy in MLflow.

    Where nothing was decided yet but orders are known, the chance to buy is learnt instead, unless
    [models] warm_start names an earlier experiment to begin from.
    """
    from pipelines import train as step
    from pipelines import train_snapshots

    known = History.read(workspace)
    is_warm = settings.read(workspace).models.warm_start is not None
    if known.has("orders") and not known.has("decisions") and not is_warm:
        found = run(lambda progress: train_snapshots.train_snapshot(workspace, progress=progress))
        rows = [{"measure": name, "value": value} for name, value in found.metrics.items()]
        how = "" if found.is_new else ", as before: the same model"
        said = f"No decisions yet: trained the chance to buy within 30 days, {found.model}{how}"
        show(f"{said}; judged on the last cut-off", rows)
        return
    report = run(lambda progress: step.train(workspace, moment(at), compared=True, progress=progress))
    if report.is_new:
        show(f"Trained {report.policy_id}", report.rows)
    else:
        how = "" if report.comparison is None else "; held against the stack now, as its card tells"
        what = "as before" if report.alias else "an earlier version, which keeps its place"
        show(f"{report.policy_id}, {what}: the same examples, the same model{how}", report.rows)
    if report.comparison is not None and report.comparison.gate is not None:
        out.print(report.comparison.gate.reason)


@app.command(rich_help_panel=PANEL)
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

    if sum(asked is not None for asked in (compare, delete, restore)) > 1:
        raise DataError("several things are asked for; expected one of --compare, --delete and --restore")
    if delete is not None:
        step.bin_version(workspace, delete)
    if restore is not None:
        step.bin_version(workspace, restore, restore=True)
    if compare is not None:
        found = step.compared(workspace, *compare)
        show("Side by side", found.rows)
        if found.note:
            out.print(found.note)
    else:
        show("Registered models", step.listed(workspace))


@app.command(rich_help_panel=PANEL)
def learn(workspace: WorkspaceArg, at: AtOption = None) -> None:
    """Nightly: close outcomes, choose memory and capacity on the latest, refit, register a challenger."""
    from pipelines import learn as step

    report = run(lambda progress: step.learn(workspace, moment(at), progress=progress))
    if report.candidates:
        shown = sorted(report.candidates, key=lambda row: row["loss"])
        show("Tried on the latest closed decisions", [
            {name: row[name] for name in ("capacity", "half_life_days", "loss", "gain_se", "is_chosen", "n")}
            for row in shown
        ])  # fmt: skip
    if report.n_waiting:
        out.print(waiting(report.n_waiting))
    out.print(f"Capacity and half-life: {report.reason}.")
    if report.warm:
        out.print(f"Warm start: {report.warm}.")
    show(f"Learnt {report.trained.policy_id}" + ("" if report.trained.is_new else ", as before"),
          report.trained.rows)  # fmt: skip


@app.command(rich_help_panel=PANEL)
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

    found = run(
        lambda progress: step.promote(
            workspace, moment(at), approver=approver, note=note, force=force, progress=progress
        )
    )
    title = f"Challenger, version {found.challenger}, against the champion, version {found.champion}"
    shown = ("check", "status", "value", "limit", "note")
    show(title, [{name: getattr(check, name) for name in shown} for check in found.checks])
    if found.is_moved:
        out.print(
            f"Version {found.challenger} is the champion now; `nba rollback` restores {found.champion}."
        )
    else:
        said = (
            "The gate lets it pass; --approver NAME promotes it." if found.is_passed else "It does not pass."
        )
        out.print(said)


@app.command(rich_help_panel=PANEL)
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

    before, after = step.rollback(workspace, moment(at), approver=approver, version=version, note=note)
    out.print(f"Version {after} is the champion again, in place of {before}.")


@app.command(rich_help_panel=PANEL)
def shadow(
    workspace: WorkspaceArg,
    batch_id: Annotated[str, typer.Option("--batch", help="The batch.", show_default=False)],
    alias: Annotated[str, typer.Option(help="The version that decides in the shadow.")] = "challenger",
    at: AtOption = None,
) -> None:
    """Log what another version would have decided in a batch, without delivering anything."""
    from pipelines import shadow as step

    found = run(lambda progress: step.shadow(workspace, moment(at), batch_id, alias, progress=progress))
    counts = found.rows.group_by("treatment_id").aggregate(
        [("decision_id", "count"), ("expected_value", "sum")]
    )
    show(f"What {alias} would have sent", counts.sort_by("treatment_id").to_pylist())
    if found.n_left_out:
        out.print(f"Of {found.n_left_out:,} other customers of the batch no candidates are stored.")


@app.command(rich_help_panel=PANEL)
def candidates(
    workspace: WorkspaceArg,
    batch_id: Annotated[
        str | None, typer.Option("--batch", help="Stored batch; the last decided by a model if left out.")
    ] = None,
) -> None:
    """Say why a batch's candidates were removed, by stage and rule, and what each business weight costs."""
    from pipelines import candidates as step

    found = run(lambda progress: step.candidates(workspace, batch_id, progress=progress))
    names = ("treatment_id", "stage", "rule", "n_customers")
    show(f"Candidates of batch {found.batch_id}", [{k: row[k] for k in names} for row in found.removed])
    shown = [{k: x for k, x in row.items() if k != "batch_id"} for row in found.costs]
    show("What levers cost, expected of the batch", shown)
    if not found.costs:
        out.print("All levers are 1: they change nothing.")


@app.command(rich_help_panel=PANEL)
def scenario(
    workspace: WorkspaceArg,
    name: Annotated[str, typer.Option(help="Of the scenario.")] = "what if",
    batch_id: Annotated[
        str | None, typer.Option("--batch", help="Stored batch; the last decided by a model if left out.")
    ] = None,
    capacity: Annotated[
        list[str] | None, typer.Option(help="channel=contacts, or volume=contacts; may be repeated.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="Money per batch.", min=0.0)] = None,
    lever: Annotated[list[str] | None, typer.Option(help="action=weight, or lever=weight.")] = None,
    cost: Annotated[list[str] | None, typer.Option(help="treatment=money; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Rule not to apply, as reasons name it.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Action or treatment not to propose.")] = None,
    rules_as_set: Annotated[
        bool,
        typer.Option("--rules-as-set", help="Ask the rules that nba.toml has now, changed or new ones too."),
    ] = False,
) -> None:
    """Change limits, levers or rules on a stored batch: expected value, volume, cost and prices."""
    from pipelines import scenario as step

    changes = step.Changes(
        {key: int(n) for key, n in step.parse(capacity or [], "--capacity", whole=True).items()},
        budget,
        step.parse(lever or [], "--lever"),
        step.parse(cost or [], "--cost"),
        tuple(without or ()),
        tuple(stop or ()),
        rules_as_set,
    )
    table = run(
        lambda progress: step.scenario(workspace, name, changes, batch_id, progress=progress)
    ).to_pylist()
    total = [row for row in table if row["item"] == "total"]
    show("Expected of the batch, as believed then", [
        {key: row[key] for key in ("scenario", "value", "value_lower", "value_upper", "contacts", "cost")}
        for row in total
    ])  # fmt: skip
    out.print(
        f"Of batch {table[0]['batch_id']}, of everybody but the holdout, whose share the limits are without."
    )
    limits = [row for row in table if row["item"] != "total"]
    show("Limits, and what one more unit would add", [
        {key: row[key] for key in ("scenario", "item", "available", "used", "price")} for row in limits
    ])  # fmt: skip
