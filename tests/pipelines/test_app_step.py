"""The step that opens the app: on this machine only, and clear when it cannot."""

import socket
from pathlib import Path

import pytest

from nba.errors import MissingError, NbaError
from pipelines.app import command, run

# by hand


def test_the_app_is_served_on_this_machine_only(tmp_path: Path) -> None:
    words = command(tmp_path, 8123)
    options = dict(zip(words[5::2], words[6::2], strict=False))
    assert options["--server.address"] == "127.0.0.1"
    assert options["--server.port"] == "8123"
    assert options["--browser.gatherUsageStats"] == "false"
    assert words[-2:] == ["--", str(tmp_path)]
    assert Path(words[4]).is_file()


def test_no_workspace_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"nba\.toml"):
        run(tmp_path / "nowhere", 8123)


def test_a_taken_port_is_one_clear_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nba.toml").write_text('[workspace]\nname = "w"\n', encoding="utf-8")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NbaError, match=f"--port {port + 1}"):
            run(tmp_path, port)
    assert "Traceback" not in capfd.readouterr().err
