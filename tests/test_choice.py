"""How a path is locked on each kind of filesystem: chosen, refused, said, and shown."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if sys.platform != "linux":
    pytest.skip("places are told apart on Linux", allow_module_level=True)

from interlock import Lock, Semaphore, UnsupportedError, inspect
from interlock._fs import facts
from interlock._fs.choice import choose
from interlock._wait import mounts

from .seam import WAYS, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .places import Places

CHOSEN = [
    ("ext4", "rw", "flock"),
    ("xfs", "rw", "flock"),
    ("btrfs", "rw", "flock"),
    ("tmpfs", "rw", "flock"),
    ("overlay", "rw", "flock"),
    ("fuse.fuse-overlayfs", "rw", "flock"),
    ("nfs4", "rw,vers=4.2,local_lock=none", "dual"),
    ("nfs", "rw,vers=3,local_lock=none", "dual"),
    ("nfs", "rw,vers=3,local_lock=posix", "flock"),
    ("cifs", "rw,vers=3.1.1", "range"),
    ("gpfs", "rw", "dual"),
    ("lustre", "rw,flock", "flock"),
    ("lustre", "rw", "flock"),
    ("ceph", "rw", "flock"),
    ("gfs2", "rw", "flock"),
    ("ocfs2", "rw", "flock"),
    ("fuse.juicefs", "rw", "flock"),
]
REFUSED = [
    ("nfs", "rw,nolock", False),
    ("nfs4", "rw,local_lock=all", False),
    ("nfs", "rw,local_lock=flock", False),
    ("cifs", "rw,nobrl", False),
    ("lustre", "rw,localflock", False),
    ("lustre", "rw,noflock", False),
    ("ocfs2", "rw,localflocks", False),
    ("gfs2", "rw,lockproto=lock_nolock", False),
    ("fuse.sshfs", "rw", False),
    ("9p", "rw", False),
    ("fakeowner", "rw", False),
    ("fuse.s3fs", "rw", False),
    ("virtiofs", "rw", None),
    ("beegfs", "rw", None),
    ("fuse", "rw", None),
    ("fuse.nobody-knows", "rw", None),
    ("vboxsf", "rw", None),
    ("quobyte", "rw", None),
]


@pytest.mark.parametrize(("fstype", "options", "primitive"), CHOSEN)
def test_what_is_chosen(
    fstype: str, options: str, primitive: str, tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, fstype, options)
    report = inspect(tmp_path / "a.lock")
    assert report.facts["primitive"] == primitive
    assert report.facts["filesystem"] == f"{fstype} at {tmp_path}"
    assert report.facts["why"]
    assert report.facts["excludes between hosts"] in ("yes", "one host")
    with Lock(tmp_path / "a.lock") as hold:
        assert inspect(tmp_path / "a.lock").enforced
        assert hold.held
    assert os.listdir(tmp_path) == ["a.lock"]


@pytest.mark.parametrize(("fstype", "options", "enforced"), REFUSED)
def test_what_is_refused(
    fstype: str, options: str, enforced: bool | None, tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, fstype, options)
    path = tmp_path / "new" / "a.lock"
    with pytest.raises(UnsupportedError) as caught:
        Lock(path).acquire()
    text = str(caught.value)
    for part in (str(path), fstype, facts.of(fstype, tuple(options.split(","))).why, "INTERLOCK_PRIMITIVE",
                 "interlock.conf", f"'{tmp_path} = marker'", "'local'"):  # fmt: skip
        assert part in text
    assert os.listdir(tmp_path) == []
    nothing_left(path)
    report = inspect(path)
    assert report.enforced is enforced
    assert report.facts["primitive"] == "none"
    assert report.facts["why"] in text


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_acquire_is_refused(
    way: Callable[[Path], object], tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, "fuse.nobody-knows")
    with pytest.raises(UnsupportedError, match="nobody-knows"):
        way(tmp_path / "a.lock")
    assert os.listdir(tmp_path) == []
    nothing_left(tmp_path / "a.lock")


@pytest.mark.parametrize(("fstype", "options", "_"), REFUSED)
def test_one_host_is_all_there_is(
    fstype: str, options: str, _: Any, tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, fstype, options)
    with Lock(tmp_path / "a.lock", primitive="local"):
        report = inspect(tmp_path / "a.lock")
    assert report.enforced is not True  # who asks without saying it, is not told that it is
    places.say("local")
    with Lock(tmp_path / "a.lock"):
        assert inspect(tmp_path / "a.lock").enforced is True


@pytest.mark.parametrize("primitive", ["flock", "dual"])
def test_what_is_known_not_to_exclude_is_refused_whoever_says_it(
    primitive: Any, tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, "lustre", "rw,localflock")
    with pytest.raises(UnsupportedError, match=f"{primitive} does not exclude other hosts on Lustre"):
        Lock(tmp_path / "a.lock", primitive=primitive).acquire()
    places.say(f"{tmp_path} = {primitive}")
    with pytest.raises(UnsupportedError, match=f"although INTERLOCK_PRIMITIVE says '{primitive}'"):
        Lock(tmp_path / "a.lock").acquire()
    assert os.listdir(tmp_path) == []


def test_flock_on_gpfs(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "gpfs")
    with pytest.raises(UnsupportedError, match="flock succeeds on every node at once"):
        Lock(tmp_path / "a.lock", primitive="flock").acquire()
    with Lock(tmp_path / "a.lock", primitive="dual"):
        pass


def test_dual_on_smb(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "smb3")
    with pytest.raises(UnsupportedError, match="conflict with each other"):
        Lock(tmp_path / "a.lock", primitive="dual").acquire()


def test_flock_on_smb(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "cifs")
    with pytest.raises(UnsupportedError, match="ends the flock of another process"):
        Lock(tmp_path / "a.lock", primitive="flock").acquire()
    with Lock(tmp_path / "a.lock", primitive="local"):
        pass


@pytest.mark.parametrize("primitive", ["flock", "dual"])
def test_who_knows_more_than_the_table_may_say_so(
    primitive: Any, tmp_path: Path, places: Places
) -> None:
    places.mount(tmp_path, "quobyte")
    lock = Lock(tmp_path / "a.lock", primitive=primitive)
    with lock:
        assert lock.inspect().enforced is None
    assert lock.inspect().facts["excludes between hosts"] == "unknown"
    assert lock.inspect().facts["why"] == f"the caller says '{primitive}'"


def test_the_reason_is_logged_once(
    tmp_path: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    places.mount(tmp_path, "nfs4")
    (tmp_path / "other").mkdir()
    with caplog.at_level(logging.INFO, "interlock"):
        for _ in range(3):
            Lock(tmp_path / "a.lock").acquire().release()
            Lock(tmp_path / "other" / "b.lock").acquire().release()
    assert [record.getMessage() for record in caplog.records if record.name == "interlock"] == [
        f"nfs4 at {tmp_path} is locked with dual: NFS 4: {facts.of('nfs4').why}"
    ]


def test_the_choice_is_kept_for_the_life_of_the_process(tmp_path: Path, places: Places) -> None:
    """Two locks of one process on one path must be one line, whatever the table says later."""
    places.mount(tmp_path, "nfs4")
    one = Lock(tmp_path / "a.lock")
    assert Lock(tmp_path / "a.lock")._line is one._line
    assert Lock(tmp_path / "b.lock")._line.engine is one._line.engine


def test_a_mount_that_is_made_when_somebody_looks(
    tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.mount(tmp_path, "autofs")
    real = os.stat

    def stat(path: Any, **how: Any) -> os.stat_result:
        places.mount(tmp_path, "nfs4", "rw,nolock")
        return real(path, **how)

    monkeypatch.setattr(os, "stat", stat)
    assert choose(str(tmp_path)).fact.title.startswith("NFS mounted with nolock")


def test_without_a_mount_table_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chroot without /proc. What is local is known; of anything else, the options are not."""
    real = mounts.fstype("/dev/shm")
    monkeypatch.setattr(mounts, "table", list)
    assert real == "tmpfs"
    assert choose("/dev/shm/not/there").primitive == "flock"
    assert choose("/dev/shm").fact.title == "tmpfs, ramfs"
    assert choose("/proc/self").refusal


# ---- the table


def test_every_row_of_the_table_can_be_met() -> None:
    for fact in facts.FACTS:
        name = fact.types[0].replace("*", "x")
        options = tuple(option.replace("*", "x") for option in fact.options[:1])
        assert facts.of(name, options) is fact, fact.title


def test_what_the_table_says_has_a_source() -> None:
    for fact in facts.FACTS:
        known = {fact.flock, fact.ranges} & {facts.YES, facts.NO}
        assert not known or fact.sources, fact.title
        assert fact.why
        assert {fact.flock, fact.ranges, fact.creation} <= {facts.YES, facts.NO, facts.UNKNOWN, facts.ALONE}


def test_auto_takes_nothing_that_is_not_known_to_exclude() -> None:
    for fact in (*facts.FACTS, facts.ANY_OTHER):
        assert fact.auto in ("", "flock", "dual", "range")
        if fact.auto:
            assert fact.hosts(fact.auto) in (facts.YES, facts.ALONE), fact.title
        if fact.auto == "flock":
            assert fact.flock in (facts.YES, facts.ALONE), fact.title


def test_what_is_local_to_waiters_is_local_to_the_table() -> None:
    """`LOCAL` is the short cut of the uncontended path past this table."""
    for name in mounts.LOCAL:
        fact = facts.of(name)
        assert (fact.flock, fact.auto) == (facts.ALONE, "flock")


# ---- leases in files, where a setting says so


def test_a_setting_makes_it_a_lease(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "fuse.nobody-knows")
    places.say(f"{tmp_path} = marker")
    lock = Lock(tmp_path / "a.lock")
    with lock as hold:
        assert hold.token is not None
        report = lock.inspect()
        assert report.facts["primitive"] == "marker"
        assert report.enforced is None  # nobody knows whether two hosts could create one name here
        assert Lock(tmp_path / "a.lock").try_acquire() is None
    with Lock(tmp_path / "a.lock") as again:
        assert again.token is not None
        assert again.token > (hold.token or 0)


def test_a_ttl_is_for_leases(tmp_path: Path, places: Places) -> None:
    with pytest.raises(UnsupportedError, match="ttl is for engines that lease"):
        Lock(tmp_path / "a.lock", ttl=3)
    assert Lock(tmp_path / "a.lock", primitive="marker", ttl=3)._line.engine.traits.family == "lease"
    places.say("marker")
    assert Lock(tmp_path / "b.lock", ttl=3)._line.engine.traits.family == "lease"
    places.say("flock")  # what the program wanted to be a lease is held until it is released
    assert Lock(tmp_path / "a.lock", primitive="marker", ttl=3)._line.engine.traits.family == "session"


def test_no_lease_where_names_are_not_exclusive(tmp_path: Path, places: Places) -> None:
    places.mount(tmp_path, "fuse.s3fs")
    with pytest.raises(UnsupportedError, match="two hosts can create one name"):
        Lock(tmp_path / "a.lock", primitive="marker").acquire()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("held", [True, False])
def test_a_kernel_lock_does_not_enter_beside_a_lease(
    held: bool, way: Callable[[Path], object], tmp_path: Path
) -> None:
    """Two processes that were told different things."""
    path = tmp_path / "a.lock"
    hold = Lock(path, primitive="marker").acquire()
    if not held:
        hold.release()
    with pytest.raises(UnsupportedError, match=r"locked by leases.*INTERLOCK_PRIMITIVE.*a\.lock\.interlock"):
        way(path)
    hold._let_go()


@pytest.mark.parametrize("primitive", ["dual", "local"])
def test_no_kind_of_kernel_lock_does(primitive: Any, tmp_path: Path) -> None:
    with Lock(tmp_path / "a.lock", primitive="marker"):
        with pytest.raises(UnsupportedError, match="locked by leases"):
            Lock(tmp_path / "a.lock", primitive=primitive).acquire(0.1)
        from interlock import RWLock

        for mode in (RWLock(tmp_path / "a.lock").read, RWLock(tmp_path / "a.lock").write):
            with pytest.raises(UnsupportedError, match="locked by leases"), mode():
                pass


@pytest.mark.parametrize("held", [True, False])
def test_no_permit_beside_a_lease(held: bool, tmp_path: Path) -> None:
    hold = Lock(tmp_path / "a.lock", primitive="marker").acquire()
    if not held:
        hold.release()
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="locked by leases"):
            Semaphore(tmp_path / "a.lock", 2).acquire()
    with pytest.raises(UnsupportedError, match="locked by leases"):
        Semaphore(tmp_path / "a.lock", 2).try_acquire()
    hold._let_go()


def test_permits_of_a_file_with_content(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("content")
    with Semaphore(tmp_path / "a.lock", 1) as hold:
        assert hold.slot == 0
        assert Semaphore(tmp_path / "a.lock", 1).try_acquire() is None


def test_a_file_with_content_can_be_locked(tmp_path: Path) -> None:
    for content in ("x", "interlock-lease", "x" * 4096):
        (tmp_path / "data").write_text(content)
        with Lock(tmp_path / "data"):
            assert Lock(tmp_path / "data").try_acquire() is None
        assert (tmp_path / "data").read_text() == content


@pytest.mark.slow
def test_a_lease_does_not_enter_beside_a_kernel_lock(tmp_path: Path) -> None:
    from interlock import ProtocolError

    with Lock(tmp_path / "a.lock"), pytest.raises(ProtocolError, match="lock file of kernel locks"):
        Lock(tmp_path / "a.lock", primitive="marker").acquire(20)
