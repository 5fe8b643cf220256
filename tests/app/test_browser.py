"""The app in a real browser, started as a user starts it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api as api

from pipelines.app import served as serve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium was not found; install the package `chromium`"),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def served(workspace: Path) -> Iterator[str]:
    """The address of the app on the small workspace."""
    with serve(workspace) as address:
        yield address


@pytest.fixture(scope="module")
def page(served: str) -> Iterator[object]:
    """A page of a headless browser."""
    with api.sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        opened = browser.new_page(viewport={"width": 1440, "height": 1000})
        opened.set_default_timeout(30_000)
        yield opened
        browser.close()


def test_overview_and_the_way_to_the_experiment(page, served) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(served)
    page.get_by_text("Incremental value of policy").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    page.get_by_role("link", name="Experiments").click()
    page.get_by_text("Each arm against holdout").wait_for()
    page.locator(".js-plotly-plot").first.wait_for()
    assert page.get_by_test_id("stException").count() == 0
    assert faults == []


def test_a_link_opens_a_page_with_its_filter(page, served) -> None:
    page.goto(f"{served}/experiments?metric=orders")
    page.get_by_text("Each arm against holdout").wait_for()
    page.get_by_text("0.425 against 0.300").wait_for()
    assert "metric=orders" in page.url
    page.goto(f"{served}/overview?lang=es")  # the first page, by the name that it has no address of
    page.get_by_text("Valor incremental").first.wait_for()
    assert "lang=es" in page.url


def test_narrow_and_dark_pages_fit_and_show_the_effect(page, served) -> None:
    narrow = page.context.browser.new_page(viewport={"width": 820, "height": 1400}, color_scheme="dark")
    narrow.set_default_timeout(30_000)
    for where, said in (
        ("policy?view=arbitration", "From value to priority, in the last batch"),
        ("value", "For 60 of its 100 customers nothing"),
        ("policy?view=values", "What other policies would have earned"),
        ("experiments", "Each arm against holdout"),
    ):
        narrow.goto(f"{served}/{where}")
        narrow.get_by_text(said).first.wait_for()
        narrow.locator(".js-plotly-plot").first.wait_for()
        for part in ("document.documentElement", "document.querySelector('[data-testid=stMain]')"):
            assert narrow.evaluate(f"{part}.scrollWidth <= {part}.clientWidth"), (where, part)
    red, green, blue = narrow.evaluate(
        "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor.match(/\\d+/g).map(Number)"
    )[:3]
    assert max(red, green, blue) < 80
    # What the grid draws within the window is what its accessible table holds.
    frames = narrow.locator("[data-testid=stDataFrame]")
    frames.nth(1).locator("[role=columnheader]").first.wait_for(state="attached")
    seen = frames.nth(1).locator("[role=columnheader]").evaluate_all("all => all.map(x => x.textContent)")
    assert seen[0] == "Arm"
    assert [any(name in title for title in seen) for name in ("Effect", "Lower", "Upper")] == [True] * 3
    narrow.close()
