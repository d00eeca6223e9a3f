"""What is said of the long runs is what their ledger says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import chaos
from .guests import ROOT
from .page import LEDGER, OURS, page, share, shares, storms, total

if TYPE_CHECKING:
    from typing import Any


def test_the_page_is_that_of_the_ledger() -> None:
    written = (ROOT / "docs" / "networks-measured.md").read_text(encoding="utf-8")
    assert written == page(LEDGER.lines()), "python -m tests.network --page docs/networks-measured.md"


def test_the_ledger_shows_no_overlap_but_where_nothing_excludes() -> None:
    lines = LEDGER.lines()
    assert all({"date", "commit", "python", "system", "what"} <= line.keys() for line in lines)
    assert total(storms(lines, OURS), "overlaps") == 0
    assert chaos.verdicts(lines)["overlaps"] == 0
    assert all(line["overlaps"] for line in storms(lines, ["none"]))
    assert all(line["holds"] == sum(line["by_worker"]) for line in storms(lines))


def storm(**but: Any) -> dict[str, Any]:
    counts = dict.fromkeys(("overlaps", "kills", "killed_inside", "waited", "waited_of"), 0)
    return {"what": "storm", "mount": "NFSv3", "lock": "auto", "lasted": 60.0, **counts, **but}


def test_the_share_of_the_worst_storm_is_shown() -> None:
    lines = [storm(by_worker=[30, 20, 10], holds=60), storm(by_worker=[5, 4], holds=9), storm(by_worker=[3, 0])]
    assert [share(line) for line in lines] == [3.0, 1.25, float("inf")]
    assert shares(lines[:2]).endswith("| NFSv3 | 2 | 69 | 0, 0 | 0 % | at most 3.00 |")
    lines[0]["lasted"] = 3.0
    assert shares(lines[:1]).count("\n") == 1, "too short to tell"


def test_events_become_lines_that_add_up() -> None:
    said = {"second": {"said": "in"}, "mount": "NFSv4.2", "lock": "auto"}
    paused = [
        {**said, "trouble": "pause", "verdict": "told", "after": 9.0},
        {**said, "trouble": "pause", "verdict": "told", "after": 12.0, "check": {"said": "failed", "why": "EIO"}},
        {**said, "trouble": "pause", "verdict": "overlaps", "after": 7.0},
    ]
    killed = [{**said, "trouble": "kill", "verdict": "excludes", "after": 10.4}]
    lines = [line for cells in (paused[:1], paused[1:], killed) for line in chaos.told(cells)]
    assert [line["events"] for line in lines] == [1, 2, 1]
    assert [line.get("why") for line in lines] == [None, ["NFSv4.2, auto, check: EIO"], None]
    assert chaos.verdicts(lines) == {"told": 2, "overlaps": 1, "excludes": 1}
    text = chaos.section(lines)
    assert "In 4 events\n(3 x pause, 1 x kill) 4 locks were held" in text
    assert "| NFSv4.2 | **overlaps** after 7 s (1 x), or told after 9 to 12 s (2 x) |" in text
    assert "| NFSv4.2 | in after 10 s |" in text
