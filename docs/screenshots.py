"""Photograph the app's pages into docs/app: `python docs/screenshots.py WORKSPACE [PAGE ...]`.

Without Chromium, playwright or the workspace nothing is changed, and one line says why.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pipelines.app import command

FOLDER = Path(__file__).parent / "app"
# File name to the page's address; the browser waits for the mark before the shot.
PAGES = {
    "overview": ("", ".js-plotly-plot"),
    "experiments": ("experiments", ".js-plotly-plot"),
    "planner": ("experiments?view=plan", ".js-plotly-plot"),
    "attribution": ("attribution?view=cause", ".js-plotly-plot"),
    "clv": ("clv?view=alive", ".js-plotly-plot"),
    "policy": ("policy?view=arbitration", ".js-plotly-plot"),
    "scenario": ("policy?view=scenario", "text=Expected value"),
    "decision": ("decision", ".js-plotly-plot"),
    "value": ("value", ".js-plotly-plot"),
    "models": ("models?view=quality", ".js-plotly-plot"),
    "health": ("health", ".js-plotly-plot"),
    "people": ("health?view=people", ".js-plotly-plot"),
    "overview-es": ("?lang=es", ".js-plotly-plot"),
}
# The script has run, and no part is still being loaded.
SETTLED = """() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
    && !document.querySelector('[data-testid=stSkeleton]')"""
WIDTH, HEIGHT, SCALE = 1440, 1100, 0.75


def main(workspace: Path, names: list[str]) -> None:
    """Serve the app on a workspace and photograph the pages named, or every one."""
    pages = {name: PAGES[name] for name in names or PAGES}
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("screenshots: skipped, playwright is not installed (extra `browser`)")
        return
    if chromium is None or not (workspace / "nba.toml").is_file():
        print(f"screenshots: skipped, {'no Chromium' if chromium is None else f'no workspace {workspace}'}")
        return
    FOLDER.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(  # noqa: S603
        command(workspace, port), stdout=subprocess.DEVNULL, env=dict(os.environ)
    )
    try:
        _wait(port)
        with sync_playwright() as player:
            browser = player.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            for name, (where, mark) in pages.items():
                tab = browser.new_page(
                    viewport={"width": WIDTH, "height": HEIGHT},
                    device_scale_factor=SCALE,
                    locale="es-ES" if name.endswith("-es") else "en-GB",
                )
                tab.goto(f"http://127.0.0.1:{port}/{where}")
                tab.locator(mark).first.wait_for(timeout=60_000)
                tab.wait_for_function(SETTLED, timeout=60_000)
                tab.wait_for_timeout(1500)  # for figures to be drawn whole
                tab.screenshot(path=str(FOLDER / f"{name}.png"))
                tab.close()
            browser.close()
    finally:
        process.terminate()
        process.wait(10)
    print(f"screenshots: {len(pages)} pages of {workspace} in {FOLDER}")


def _wait(port: int) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
        except OSError:
            time.sleep(0.25)
        else:
            return
    raise SystemExit(f"the app did not start on port {port} within 30 s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
