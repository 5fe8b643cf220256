"""Open the app, or MLflow's pages, on a workspace."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nba import settings, tracking
from nba.errors import NbaError

HOME = Path(__file__).parents[1] / "app" / "Home.py"


def command(workspace: Path, port: int) -> list[str]:
    """Give the command that serves the app on this machine only.

    Example:
        >>> command(Path("workspaces/demo"), 8501)[-1]
        'workspaces/demo'
    """
    options = {
        "server.headless": "true",
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    return [sys.executable, "-m", "streamlit", "run", str(HOME), *flags, "--", str(workspace)]


@contextmanager
def served(workspace: Path, *, patience: float = 60.0) -> Iterator[str]:
    """Serve the app on a free port while the block runs, and give its address.

    Args:
        workspace: Folder of the workspace.
        patience: Seconds that starting may take.

    Raises:
        NbaError: when it does not answer in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(  # noqa: S603
        command(workspace, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, patience=patience)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def wait_for(address: str, process: subprocess.Popen[bytes], *, patience: float = 60.0) -> None:
    """Wait until a Streamlit server answers.

    Raises:
        NbaError: when it ends, or does not answer in time.
    """
    begun = time.monotonic()
    while not _answers(f"{address}/_stcore/health"):
        if time.monotonic() - begun > patience or process.poll() is not None:
            raise NbaError(f"the app did not answer at {address} within {patience:g} s")
        time.sleep(0.25)


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=1).close()  # noqa: S310
    except OSError:
        return False
    return True


def run(workspace: Path, port: int) -> None:
    """Serve the app until it is interrupted.

    Args:
        workspace: Folder of the workspace; its settings are checked first.
        port: Port on this machine.

    Raises:
        NbaError: when the workspace is not there or cannot be used, or the port cannot be served.
    """
    settings.read(workspace)
    code = subprocess.run(command(workspace, port), env=dict(os.environ), check=False).returncode  # noqa: S603
    if code not in (0, 130, -2):
        raise NbaError(
            f"the app ended with code {code}; expected it to serve port {port}",
            f"If the port is taken, name another: `nba app {workspace} --port {port + 1}`.",
        )


def run_mlflow(workspace: Path, port: int) -> None:
    """Serve MLflow's pages on the workspace's store until interrupted.

    Args:
        workspace: Folder of the workspace.
        port: Port on this machine.

    Raises:
        NbaError: when the store is a server of its own, or holds nothing yet, or the port cannot be served.
    """
    store = tracking.setup(settings.read(workspace), workspace)
    if store.database is None:
        raise NbaError(f"the store is {store.tracking}; expected a local one", "Open that address instead.")
    if not store.database.is_file():
        raise NbaError(f"{store.database} does not exist yet", "Run `nba train` first.")
    options = ["--backend-store-uri", store.tracking, "--host", "127.0.0.1", "--port", str(port)]
    code = subprocess.run([sys.executable, "-m", "mlflow", "server", *options], check=False).returncode  # noqa: S603
    if code not in (0, 130, -2):
        raise NbaError(
            f"MLflow ended with code {code}; expected it to serve port {port}", "Try another --port."
        )
