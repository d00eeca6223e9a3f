"""Projects that depend on filelock, in real use, in environments where `filelock` is interlock's."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from .environments import Environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IS_OURS = "import filelock, interlock.filelock as ours; assert filelock is ours"


def environment_with(base: Path, *projects: str) -> Environment:
    environment = Environment(base / "environment")
    environment.pip("install", *projects)
    environment.pip("uninstall", "-y", "filelock")
    environment.with_interlock()
    subprocess.run([environment.python, "-c", IS_OURS], check=True, timeout=60)
    return environment


def all_succeed(commands: list[list[str]], cwd: Path, env: dict[str, str] | None = None) -> list[str]:
    """Run the commands at once; their outputs."""
    running = [
        subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    outputs = []
    for process in running:
        with process:
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        outputs.append(output)
    return outputs


@pytest.fixture(scope="module")
def builders(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment_with(tmp_path_factory.mktemp("builders"), "virtualenv", "tox")


def test_virtualenv_makes_environments_at_once(builders: Environment, tmp_path: Path) -> None:
    """They share the application data directory, whose every entry is under a file lock."""
    data = tmp_path / "data"
    names = ["one", "two", "three"]
    command = [builders.python, "-m", "virtualenv", "--app-data", str(data), "--no-download"]
    all_succeed([[*command, name] for name in names], tmp_path)
    for name in names:
        subprocess.run([str(tmp_path / name / builders.bin.name / "pip"), "--version"], timeout=60, check=True)
    assert list(data.rglob("*.lock"))


def test_tox_builds_once_for_two_runs(builders: Environment, tmp_path: Path) -> None:
    """Two runs of tox share the environment that builds the package; tox holds a file lock while it does."""
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "sample"\nversion = "1"\n[tool.hatch.build.targets.wheel]\npackages = ["sample"]\n'
    )
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "__init__.py").write_text("NUMBER = 7 * 191\n")
    (tmp_path / "tox.ini").write_text(
        "[tox]\nenv_list = a, b\n[testenv]\npackage = wheel\nwheel_build_env = .pkg\n"
        'commands = python -c "import sample; print(sample.NUMBER)"\n'
    )
    command = [builders.python, "-m", "tox", "run", "-e"]
    for output in all_succeed([[*command, "a"], [*command, "b"]], tmp_path):
        assert "1337" in output
    assert list((tmp_path / ".tox").rglob("*.lock"))


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as one download needs. Counts how often the file itself is sent, and sends it only when
    all clients have asked what it is: from then on only a lock keeps them from asking for it."""

    clients = 4
    asked = sent = 0
    counting = threading.Condition()
    content = b"weights" * 200_000

    def respond(self, body: bool) -> None:
        data = self.content
        if "/api/" in self.path:
            data = json.dumps({"sha": "a" * 40, "siblings": [{"rfilename": "model.bin"}]}).encode()
        elif body:
            with self.counting:
                type(self).sent += 1
                self.counting.wait_for(lambda: self.asked >= self.clients, 30)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"' + "b" * 40 + '"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_GET(self) -> None:
        self.respond(True)

    def do_HEAD(self) -> None:
        with self.counting:
            type(self).asked += 1
            self.counting.notify_all()
        self.respond(False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    Hub.asked = Hub.sent = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_huggingface_hub_downloads_once(hub: str, tmp_path: Path) -> None:
    """Processes that want one file share a cache; the first downloads it under a file lock, the others find it."""
    environment = environment_with(tmp_path, "huggingface_hub")
    script = (
        "from huggingface_hub import hf_hub_download; import os\n"
        "path = hf_hub_download('owner/model', 'model.bin')\n"
        "print(os.path.getsize(path), path)\n"
    )
    outputs = all_succeed(
        [[environment.python, "-c", script]] * Hub.clients,
        tmp_path,
        {
            "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        },
    )  # fmt: skip
    assert {output.splitlines()[-1].split()[0] for output in outputs} == {str(len(Hub.content))}
    assert Hub.asked >= Hub.clients
    assert Hub.sent == 1
    assert list((tmp_path / "home").rglob("*.lock"))
