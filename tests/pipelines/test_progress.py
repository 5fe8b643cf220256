from io import StringIO

from rich.console import Console
from rich.progress import Progress as Bars

from pipelines import progress

# by hand


def test_a_rate_is_of_the_whole_step_and_only_where_there_is_much_to_count():
    now = 0.0
    column = progress._Rate()
    bars = Bars(column, console=Console(file=StringIO()), get_time=lambda: now, auto_refresh=False)
    shown = progress._Terminal(bars)

    def rate():
        return column.render(bars.tasks[-1]).plain

    few = shown.step("training", total=5)
    now = 40.0
    few(2)
    now += 1e-5
    few(1)
    assert rate() == ""
    shown._finish()  # the rest was not needed
    assert rate() == ""
    many = shown.step("rows", total=10_000)
    now += 10
    many(5_000)
    assert rate() == "500/s"
    now += 10
    many(4_999)
    now += 1e-5
    many(1)
    assert rate() == "500/s"
    early = shown.step("more rows", total=1_000_000)
    now += 10
    early(3_000)
    shown._finish()
    assert rate() == "300/s"
