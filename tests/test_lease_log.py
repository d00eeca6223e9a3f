"""The log of a lease, decision by decision, on files that are a dictionary: what a directory shows, what a link
answers and what time it is are the test's."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from interlock import ProtocolError
from interlock.engines.marker import lease_records as records
from interlock.engines.marker.lease_log import FOREVER, Log, Newest
from interlock.engines.marker.lease_ops import NoLinks
from interlock.engines.marker.lease_records import NOTHING, Party, Record

if TYPE_CHECKING:
    from collections.abc import Callable

ME = Party(4711, 99, 3, 4, "here", "me")
OTHER = Party(4712, 98, 3, 4, "there", "other")
PLACE = "/x.interlock"


class File:
    def __init__(self, data: bytes = b"") -> None:
        self.data = data


class Files:
    """The calls that a log makes. `there`: the directory, by name. `calls`: what was changed or asked, in order."""

    def __init__(self) -> None:
        self.there: dict[str, File] | None = {}
        self.listed: list[str] | None = None
        self.time = 100.0
        self.epoch = 5.0
        self.nonces = 0
        self.departed: set[int] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.patches: dict[str, Callable[..., Any]] = {}

    def _patched(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.patches:
            self.patches.pop(name)(*args)

    def names(self, directory: str) -> list[str] | None:
        assert directory == PLACE
        if self.there is None:
            return None
        return list(self.there) if self.listed is None else self.listed

    def _file(self, path: str) -> str:
        place, _, name = path.rpartition("/")
        assert place == PLACE
        return name

    def read(self, path: str, between_hosts: bool) -> bytes | None:
        self._patched("read", self._file(path), between_hosts)
        found = (self.there or {}).get(self._file(path))
        return None if found is None else found.data

    def create(self, claim: Any, path: str) -> None:
        assert self.there is not None
        if self._file(path) in self.there:
            raise FileExistsError(path)
        claim.fd = claim.made = self.there[self._file(path)] = File()

    create_private = create

    def write(self, fd: File, data: bytes, *, settle: bool) -> None:
        self._patched("write", data[-23:], settle)
        fd.data = data

    def link(self, source: str, target: str) -> bool:
        assert self.there is not None
        if "link" in self.patches:
            self.patches.pop("link")(source, target)
        if self._file(target) in self.there or self._file(source) not in self.there:
            return False
        self.there[self._file(target)] = self.there[self._file(source)]
        return True

    def unlink(self, path: str) -> None:
        self.calls.append(("unlink", self._file(path)))
        (self.there or {}).pop(self._file(path), None)

    def exists(self, path: str) -> bool:
        return self._file(path) in (self.there or {})

    def current(self, claim: Any, path: str) -> bool:
        return (self.there or {}).get(self._file(path)) is claim.made

    def abandon(self, claim: Any) -> None:
        self.calls.append(("abandon", claim.follows))
        claim.fd = None
        if claim.private:
            self.unlink(claim.private)
            claim.private = ""

    def begin(self, directory: str, name: str, data: bytes, nonce: str) -> None:
        if not self.there:
            self.there = {name: File(data)}

    def sweep_notes(self, directory: str, names: list[str]) -> None:
        self.calls.append(("notes", directory, sorted(names)))

    def clock(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.epoch

    def nonce(self) -> str:
        self.nonces += 1
        return f"{self.nonces:032x}"

    def me(self) -> Party:
        return ME

    def dead(self, party: Party) -> bool:
        return party.pid in self.departed


def log(trusted: bool = True) -> tuple[Log, Files]:
    files: Any = Files()
    return Log(files, "/x", trusted), files


def name(number: int) -> str:
    return f"{number:020d}"


def data(number: int, state: str = "R", version: int = 0, after: str = NOTHING, nonce: int = 0) -> bytes:
    record = Record(number, f"{nonce or 1000 + number:032x}", after, 10.0, OTHER, 1.0)
    return records.encode(record) + records.tail(state, version)


def put(files: Files, number: int, state: str = "R", **more: Any) -> Newest:
    assert files.there is not None
    files.there[name(number)] = File(data(number, state, **more))
    return Newest(number, files.there[name(number)].data)


def claim() -> Any:
    return SimpleNamespace(number=0, follows=None, head=b"", private="", fd=None, made=None)


def shown(files: Files) -> list[str]:
    return sorted(files.there or {})


# ---- how things stand


@pytest.mark.parametrize(
    ("state", "released", "follows"),
    [("N", False, False), ("H", False, True), ("R", True, True), ("V", True, False)],
)
def test_what_a_tail_says(state: str, released: bool, follows: bool) -> None:
    newest = Newest(7, data(7, state))
    assert (newest.kind, newest.released, newest.follows) == ("record", released, follows)
    assert newest.record is not None
    assert newest.record.token == 7


def test_a_record_under_another_number_is_damaged() -> None:
    assert (Newest(7, data(8)).kind, Newest(7, data(8)).record) == ("damaged", None)
    assert Newest(7, b"").kind == "torn"


def test_a_log_that_is_not_there_or_empty_has_no_newest_and_nothing_is_read() -> None:
    its, files = log()
    assert its.newest() is None
    assert files.there == {}
    assert its.empty()
    with pytest.raises(ProtocolError, match="has no generation in it"):
        its.require_generations()
    files.there = None
    assert its.newest() is None
    assert its.empty()
    its.require_generations()
    assert files.calls == []


@pytest.mark.parametrize("trusted", [False, True])
def test_the_newest_is_the_highest(trusted: bool) -> None:
    its, files = log(trusted)
    for number in (3, 12, 9):
        put(files, number)
    assert files.there is not None
    files.there[".x"] = files.there["99"] = File()
    newest = its.newest()
    assert newest is not None
    assert (newest.number, newest.data) == (12, data(12))
    assert files.calls == [("read", name(12), not trusted)]
    assert not its.empty()
    its.require_generations()


def test_a_generation_that_is_known_counts_although_it_is_not_listed() -> None:
    """Who was late knows that it exists; what a host lists may be old. But where nothing is listed, the log is gone."""
    its, files = log()
    before = put(files, 1)
    put(files, 2, "H")
    assert not its.publish(claim(), before, 10.0)
    files.listed = [name(1)]
    newest = its.newest()
    assert newest is not None
    assert newest.number == 2
    files.listed = []
    assert its.newest() is None
    files.listed = [name(1)]
    newest = its.newest()
    assert newest is not None
    assert newest.number == 1, "what was known is of the log that is gone"


def test_what_is_known_and_gone_is_no_more() -> None:
    its, files = log()
    before = put(files, 1)
    put(files, 2, "H")
    assert not its.publish(claim(), before, 10.0)
    assert files.there is not None
    del files.there[name(2)]
    newest = its.newest()
    assert newest is not None
    assert newest.number == 1


@pytest.mark.parametrize(("epoch", "number"), [(5.0, 5_000_000), (0.0, 1), (-3.0, 1)])
@pytest.mark.parametrize("suspicious", [False, True])
def test_how_a_log_begins(suspicious: bool, epoch: float, number: int) -> None:
    its, files = log()
    files.epoch = epoch
    its.begin(10.0, suspicious)
    newest = its.newest()
    assert newest is not None
    assert newest.record == Record(number, f"{1:032x}", NOTHING, 10.0, Party(0, 0, 0, 0, "", ""), 0.0)
    assert newest.data.endswith(b"H 00000000000000000000\n" if suspicious else b"R 00000000000000000000\n")
    assert newest.number == number


def test_what_is_released_or_whose_owner_died_is_free() -> None:
    its, files = log()
    assert its.free(Newest(1, data(1, "R")), 100.0) == ("released", FOREVER)
    assert its.free(Newest(1, data(1, "V")), 100.0) == ("released", FOREVER)
    files.departed = {OTHER.pid}
    assert its.free(Newest(1, data(1, "H")), 100.0) == ("its owner, pid 4712, has died", FOREVER)


def test_what_stands_still_for_its_ttl_and_a_bit_is_free() -> None:
    """By the time between the end of the first look and the beginning of the last."""
    its, files = log()
    held = Newest(1, data(1, "H"))
    assert its.free(held, 99.0) == ("", 110.5)
    files.time = 200.0
    assert its.free(held, 110.25) == ("", 110.5)
    renewed = Newest(1, data(1, "H", 1))
    assert its.free(renewed, 150.0) == ("", 210.5)
    assert its.free(held, 200.0) == ("", 210.5), "it was seen to change"
    reason, when = its.free(held, 210.5)
    assert (reason, when) == ("not renewed for 10.5 s, with a ttl of 10 s", FOREVER)
    assert its.free(Newest(2, data(2, "H")), 300.0) == ("", 210.5), "another generation"


def test_what_cannot_be_read_is_an_error_at_once_or_after_a_while() -> None:
    its, files = log()
    torn = Newest(1, b"")
    assert its.free(torn, 99.0) == ("", 105.0)
    assert its.free(torn, 104.75) == ("", 105.0)
    with pytest.raises(ProtocolError, match="was left unfinished for 5 s"):
        its.free(torn, 105.0)
    for content, why in ((b"interlock-lease/2\n", "newer version"), (b"hello", "is no record"), (data(2), "damaged")):
        with pytest.raises(ProtocolError, match=why):
            its.free(Newest(1, content), files.time)


# ---- the next generation


@pytest.mark.parametrize("trusted", [False, True])
def test_the_next_generation_names_its_predecessor(trusted: bool) -> None:
    its, files = log(trusted)
    mine = claim()
    assert its.publish(mine, put(files, 6, nonce=77), 12.0) is True
    assert (mine.number, mine.follows, mine.private) == (7, False, "")
    newest = its.newest()
    assert newest is not None
    assert newest.record == Record(7, f"{1:032x}", f"{77:032x}", 12.0, ME, 5.0)
    assert ("write", b"N 00000000000000000000\n", not trusted) in files.calls
    assert shown(files) == [name(6), name(7)]
    assert its.publish(claim(), Newest(7, b""), 12.0), "of one that nobody can read"
    assert records.parse(files.there[name(8)].data)[1].after == NOTHING  # type: ignore[index, union-attr]


@pytest.mark.parametrize("links", [False, True])
def test_who_is_late_has_nothing(links: bool) -> None:
    its, files = log()
    its._links = links
    before = put(files, 6)
    taken = put(files, 7, "H")
    mine = claim()
    assert its.publish(mine, before, 12.0) is False
    assert files.there is not None
    assert files.there[name(7)].data == taken.data
    assert shown(files) == [name(6), name(7)]
    assert ("abandon", False) in files.calls
    assert mine.fd is None


def test_where_there_are_no_links_it_is_created_and_links_are_not_asked_for_again() -> None:
    its, files = log(trusted=False)

    def none(*_: object) -> None:
        raise NoLinks

    files.patches["link"] = none
    mine = claim()
    assert its.publish(mine, put(files, 6), 12.0)
    assert [call[0] for call in files.calls].count("abandon") == 1, "of what was made to be linked"
    assert shown(files) == [name(6), name(7)]
    assert files.there is not None
    assert mine.fd is files.there[name(7)]
    files.patches["link"] = none
    files.calls.clear()
    newest = its.newest()
    assert newest is not None
    assert its.publish(claim(), newest, 12.0)
    assert "link" in files.patches
    assert ("write", b"N 00000000000000000000\n", True) in files.calls, "others see an empty record: it must settle"


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("how", ["error", "taken"])
def test_the_answer_of_a_link_may_be_lost(how: str, done: bool) -> None:
    its, files = log()
    before = put(files, 6)

    def lost(source: str, target: str) -> None:
        assert files.there is not None
        files.there[files._file(target)] = files.there[files._file(source)] if done else File(data(7, "H"))
        if how == "error":
            raise OSError(errno.EIO, "lost")

    files.patches["link"] = lost
    if how == "error" and not done:
        with pytest.raises(OSError, match="lost"):
            its.publish(claim(), before, 12.0)
        return
    assert its.publish(claim(), before, 12.0) == done
    assert shown(files) == [name(6), name(7)]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_record_that_could_not_be_written_does_not_stay_without_links(replaced: bool) -> None:
    its, files = log()
    its._links = False
    before = put(files, 6)

    def full(*_: object) -> None:
        assert files.there is not None
        if replaced:
            files.there[name(7)] = File(b"another's")
        raise OSError(errno.ENOSPC, "full")

    files.patches["write"] = full
    with pytest.raises(OSError, match="full"):
        its.publish(claim(), before, 12.0)
    assert shown(files) == [name(6), name(7)] if replaced else [name(6)]


# ---- is its predecessor still there?


def published(
    trusted: bool = True, state: str = "R", links: bool = True, **more: Any
) -> tuple[Log, Files, Any, Newest]:
    its, files = log(trusted)
    its._links = links
    before = put(files, 6, state, **more)
    mine = claim()
    assert its.publish(mine, before, 12.0)
    files.calls.clear()
    return its, files, mine, before


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_generation_whose_predecessor_is_there_says_that_it_is_held(trusted: bool, links: bool) -> None:
    its, files, mine, before = published(trusted, links=links)
    assert its.follows(mine, before) is True
    assert mine.follows is True
    assert files.calls[-1] == ("write", b"H 00000000000000000000\n", not trusted)
    assert shown(files) == [name(6), name(7)], "a probe is left"
    assert files.there is not None
    assert records.parse(files.there[name(7)].data)[0] == "record"
    asked = [call[1] for call in files.calls if call[0] == "read"]
    assert len(asked) == 1
    assert (asked == [name(6)]) == (trusted or not links), "by one more name of it, unless nobody is deceived here"


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("now", ["gone", "another", "torn"])
def test_a_generation_whose_predecessor_is_not_there_is_a_stray(now: str, trusted: bool, links: bool) -> None:
    its, files, mine, before = published(trusted, links=links)
    assert files.there is not None
    if now == "gone":
        del files.there[name(6)]
    else:
        files.there[name(6)].data = data(6, nonce=5) if now == "another" else b""
    assert its.follows(mine, before) is False
    assert mine.follows is False
    assert [call for call in files.calls if call[0] == "write"] == []
    assert shown(files) == [each for each in (name(6), name(7)) if now != "gone" or each != name(6)]


@pytest.mark.parametrize(
    ("fifth", "fourth", "follows"),
    [("R", None, True), ("H", None, True), ("V", "R", True), ("N", "H", True), ("V", None, False), (None, None, False),
     ("V", "another", False)],
)  # fmt: skip
def test_one_that_never_knew_is_asked_for_its_own_predecessor(
    fifth: str | None, fourth: str | None, follows: bool
) -> None:
    its, files, mine, before = published(state="V", after=f"{1005:032x}")
    if fifth is not None:
        put(files, 5, fifth, after=f"{1004:032x}")
    if fourth is not None:
        put(files, 4, "R" if fourth == "another" else fourth, nonce=3 if fourth == "another" else 0)
    assert its.follows(mine, before) is follows


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("higher", [False, True])
def test_without_links_between_hosts_a_higher_number_in_the_listing_says_that_it_came_too_late(
    higher: bool, links: bool, trusted: bool
) -> None:
    its, files, mine, before = published(trusted, links=links)
    files.listed = [name(6), name(7), "99999", *([name(8)] if higher else [])]
    assert its.follows(mine, before) is not (higher and not links and not trusted)


@pytest.mark.parametrize("done", [False, True])
def test_the_answer_of_a_probe_may_be_lost(done: bool) -> None:
    its, files, mine, before = published(trusted=False)

    def lost(source: str, target: str) -> None:
        assert files.there is not None
        if done:
            files.there[files._file(target)] = files.there[files._file(source)]
        raise OSError(errno.EIO, "lost")

    files.patches["link"] = lost
    if done:
        assert its.follows(mine, before)
    else:
        with pytest.raises(OSError, match="lost"):
            its.follows(mine, before)
    assert shown(files) == [name(6), name(7)]


# ---- and after


def test_what_is_far_behind_is_removed_upwards() -> None:
    its, files = log()
    for number in (9, 3, 5, 4, 10, 6, 7, 8):
        put(files, number)
    assert files.there is not None
    private = [f".{name(number)}-{number:032x}" for number in (5, 6)]
    for each in (*private, private[0] + "p", "waits-x", "README", ".other"):
        files.there[each] = File()
    assert its.newest() is not None
    files.calls.clear()
    its.sweep(10)
    gone = [private[0], private[0] + "p", name(3), name(4), name(5)]
    assert [call[1] for call in files.calls if call[0] == "unlink"] == gone
    assert shown(files) == sorted([".other", "README", "waits-x", private[1], *map(name, range(6, 11))])
    assert files.calls[-1] == ("notes", PLACE, sorted([*gone, *shown(files)]))


def test_why_a_generation_does_not_count_any_more() -> None:
    its, files, mine, _ = published()
    assert its.taken(mine) == ""
    files_7 = files.there[name(7)] if files.there else None
    put(files, 8)
    assert its.taken(mine) == f"another owner has made generation 8 of {PLACE}"
    assert files.there is not None
    del files.there[name(8)]
    files.there[name(7)] = File()
    assert its.taken(mine) == f"{PLACE}/{name(7)} was removed"
    assert files_7 is mine.made
    put(files, 9)
    files.there[name(7)] = mine.made
    assert its.taken(mine) == ""


@pytest.mark.parametrize(
    ("now", "done"), [("there", True), ("unreadable", True), ("gone", False), ("late", False)]
)
def test_a_decision_of_people_makes_the_next_generation_and_ends_it(now: str, done: bool) -> None:
    its, files = log()
    before = put(files, 6, "H")
    mine = claim()
    if now == "unreadable":
        before = Newest(6, b"")
        assert files.there is not None
        files.there[name(6)].data = b""
    if now == "late":
        put(files, 7)
    if now == "gone":

        def removed(*_: object) -> None:
            assert files.there is not None
            del files.there[name(6)]

        files.patches["link"] = removed
    assert its.overrule(mine, before, 12.0) is done
    assert mine.follows is done
    assert mine.fd is None
    assert ("abandon", done) in files.calls
