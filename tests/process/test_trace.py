"""`interlock trace` with real commands; its page in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from ..support import need, need_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

need_module("click")

TOOL = [sys.executable, "-m", "interlock"]

WORK = """
import os, sys, time
from interlock import Lock, Timeout
name = sys.argv[1]
def until(path):
    while not os.path.exists(path): time.sleep(0.002)
if name == "first":
    with Lock("build.lock"):
        open("held", "w").close()
        until("waits")
        time.sleep(0.1)
elif name == "second":
    until("held")
    try: Lock("build.lock").acquire(0.02)
    except Timeout: pass
    open("waits", "w").close()
    with Lock("build.lock"): time.sleep(0.02)
    open("done", "w").close()
else:
    until("done")
    hold = Lock("build.lock").acquire()
    os.kill(os.getpid(), 9)
"""


def trace(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, "trace", *words], cwd=directory, capture_output=True, text=True, timeout=60)


def data(directory: Path) -> dict[str, Any]:
    text = (directory / "interlock-trace.html").read_text()
    found: dict[str, Any] = json.loads(text.split('id="data">')[1].split("</script>")[0])
    return found


@pytest.mark.parametrize(
    ("words", "status"), [(("sh", "-c", "exit 7"), 7), (("no-such-command",), 127), (("./notes",), 126)]
)
def test_the_exit_status_is_the_commands(words: tuple[str, ...], status: int, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no program")
    done = trace(tmp_path, "--", *words)
    assert done.returncode == status
    assert (tmp_path / "interlock-trace.html").exists()


def test_it_dies_of_the_commands_signal(tmp_path: Path) -> None:
    assert trace(tmp_path, "--quiet", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_where_nothing_can_be_written_the_command_is_not_run(tmp_path: Path) -> None:
    done = trace(tmp_path, "-o", "no/such/place", "--", "touch", "ran")
    assert done.returncode == 125
    assert "no/such/place.html" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_wrong_command_line_is_2(tmp_path: Path) -> None:
    assert trace(tmp_path).returncode == 2
    assert trace(tmp_path, "--nonsense", "--", "true").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_an_option_of_the_command_is_the_commands(tmp_path: Path) -> None:
    assert trace(tmp_path, "sh", "-c", "exit 3").returncode == 3


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three processes on one lock, the last one killed with it, and flock(1), which knows nothing of us."""
    need("flock")
    directory = tmp_path_factory.mktemp("traced")
    (directory / "work.py").write_text(WORK)
    script = (
        f'for name in first second third; do "{sys.executable}" work.py $name & done\n'
        "flock deploy.lock sleep 0.4 &\n"
        "wait\n"
        "exit 7\n"
    )
    done = trace(directory, "--", "sh", "-c", script)
    assert done.returncode == 7, done.stderr
    assert "2 locks, 3 processes recorded; 1 seen from outside" in done.stderr
    return directory


def test_the_history_is_complete(traced: Path) -> None:
    found = data(traced)
    pids = {process["command"].split()[-1]: number for number, process in enumerate(found["processes"])}
    names = [name for name, _ in found["locks"]]
    build, deploy = names.index("build.lock"), names.index(str(traced / "deploy.lock"))
    history = [
        (span[0], found["processes"][span[2]]["command"].split()[-1], span[7])
        for span in found["spans"] if span[1] == build
    ]  # fmt: skip
    assert history == [
        (0, "first", "released"),
        (1, "second", "withdrawn"),
        (1, "second", "acquired"),
        (0, "second", "released"),
        (0, "third", "ended"),
    ]
    holds = [span for span in found["spans"] if span[1] == build and span[0] == 0]
    for one, next_ in pairwise(holds):
        assert one[5] <= next_[4], "holds that exclude one another do not overlap"
    (foreign,) = [span for span in found["spans"] if span[1] == deploy]
    assert foreign[8] == "sampled"
    assert 200_000 < foreign[5] - foreign[4] < 5_000_000
    assert pids.keys() >= {"first", "second", "third"}


def test_the_other_file_is_a_chrome_trace(traced: Path) -> None:
    events = json.loads((traced / "interlock-trace.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "b", "e"}
    assert sum(event["ph"] == "b" for event in events) == len(data(traced)["spans"])


MODES = """
from interlock import RWLock, Semaphore
with RWLock("index.lock").update() as hold:
    hold.upgrade()
    hold.downgrade()
with Semaphore("gpus", 2), Semaphore("gpus", 2):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read-write locks on a path are Linux only")
def test_modes_and_slots_are_in_the_timeline(tmp_path: Path) -> None:
    (tmp_path / "modes.py").write_text(MODES)
    done = trace(tmp_path, "--", sys.executable, "modes.py")
    assert done.returncode == 0, done.stderr
    found = data(tmp_path)
    spans = [(found["locks"][span[1]][0], span[6], span[7], span[9]) for span in found["spans"]]
    assert spans == [
        ("index.lock", "update", "upgraded", ""),
        ("index.lock", "write", "downgraded", ""),
        ("index.lock", "read", "released", ""),
        ("gpus", "permit", "released", "slot 0"),
        ("gpus", "permit", "released", "slot 1"),
    ]
    first, second, third = found["spans"][:3]
    assert (first[5], second[5]) == (second[4], third[4]), "they follow each other without a gap"
    events = json.loads((tmp_path / "interlock-trace.json").read_text())["traceEvents"]
    begun = [event["args"] for event in events if event["ph"] == "b"]
    assert [(args["mode"], args["note"]) for args in begun] == [(mode, note) for _, mode, _, note in spans]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or need("chromium")
    driver = need("chromedriver")
    need_module("selenium")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1400,1100",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_page_shows_the_run_in_a_browser(traced: Path, browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    browser.get((traced / "interlock-trace.html").as_uri())
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#locks tbody tr")]
    assert any(row.startswith("build.lock kernel 3 ") for row in rows), rows
    assert any("deploy.lock flock 1 " in row for row in rows)
    waits = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#waits tbody tr")]
    assert sum("got the lock" in row for row in waits) == 1
    assert sum("gave up" in row for row in waits) == 1
    assert browser.find_element(By.ID, "about").text.startswith("sh -c")
    assert "looked at every" in browser.find_element(By.ID, "honest").text

    # The bars are drawn where the data says, and tell what they are when they are pointed at.
    span = next(span for span in data(traced)["spans"] if span[0] == 0 and span[7] == "ended")
    number = data(traced)["spans"].index(span)
    drawn = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    browser.execute_async_script(drawn)  # the page's own scroll bar may have come, and made it narrower
    where = "const s = D.spans[arguments[0]], row = rows.find(r => !r.head && r.spans.includes(s));"
    px, py = browser.execute_script(where + "return [(x(s[4]) + x(s[5])) / 2, row.top + 10]", number)
    pixel = browser.execute_script(
        "const d = devicePixelRatio; return [...g.getImageData(arguments[0] * d, arguments[1] * d, 1, 1).data]", px, py
    )
    background = browser.execute_script("return [...g.getImageData(width - 2, 40, 1, 1).data]")
    assert pixel[:3] != background[:3]
    canvas = browser.find_element(By.ID, "canvas")
    middle = (canvas.rect["width"] / 2, canvas.rect["height"] / 2)
    mouse = ActionChains(browser)
    mouse.move_to_element_with_offset(canvas, int(px - middle[0]), int(py - middle[1])).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert "holds build.lock" in tip.text
    assert "work.py third" in tip.text
    assert "the process ended" in tip.text
    mouse.click().perform()
    assert "work.py third" in browser.find_element(By.ID, "details").text

    before = browser.execute_script("return to - from")
    browser.find_element(By.ID, "in").click()
    assert browser.execute_script("return to - from") == pytest.approx(before / 2)
    browser.find_element(By.ID, "fit").click()
    browser.find_element(By.ID, "find").send_keys("deploy")
    assert browser.execute_script("return rows.map(r => r.label).join()").count("build.lock") == 0
    browser.find_element(By.ID, "find").clear()
    browser.execute_script("const g = document.getElementById('group'); g.value = 'process'; g.onchange()")
    assert browser.execute_script("return rows.filter(r => r.head).length") == len(data(traced)["processes"])
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
    shot = traced / "shot.png"
    assert browser.save_screenshot(str(shot))
    assert shot.stat().st_size > 20_000
    if "INTERLOCK_KEEP" in os.environ:
        shutil.copy(shot, os.environ["INTERLOCK_KEEP"])
