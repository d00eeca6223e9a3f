"""User-mode Linux guests as hosts: one server (NFS and SMB), two clients, each a kernel with caches of its own.

Theory of operation
-------------------
The guests are processes of this machine that run a Linux kernel of their own (Debian's user-mode-linux). They share
nothing but a page of memory and a switch in a network namespace of its own, so that nothing reaches the host's network.
Their root is the host's, read-only, so no image is made; what they write goes to tmpfs, to the server's disk, and to
one directory of the host, where the results appear.

The server guest runs the plan (`inside`): it tells the clients what to mount and which workers to start, and counts.
The referee is that page: to ask one over the network took longer than to take the lock.
The host only boots, waits for the results, and ends what it started, by pid. A guest is several processes of the host,
in sessions of their own: what finds them all is the network namespace, and those of one guest its IPC namespace.
In `chaos` the host is the conductor: it kills, stops and boots guests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["ADDRESSES", "Guests", "missing"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ADDRESSES = {"server": "10.9.0.1", "one": "10.9.0.2", "two": "10.9.0.3"}
PAGE = 8192
"""Bytes of memory that the guests share: each finds them as /dev/mmapper."""
MODULES = Path("/usr/lib/uml/modules")
_SMB = """
[global]
workgroup = GROUP
server role = standalone server
security = user
map to guest = Bad User
guest account = root
log level = 0
private dir = /run/samba
lock directory = /mnt/net/samba
state directory = /mnt/net/samba
cache directory = /mnt/net/samba
pid directory = /run/samba
ncalrpc dir = /run/samba/ncalrpc
load printers = no
disable spoolss = yes
interfaces = 10.9.0.1
bind interfaces only = yes
strict locking = yes
socket options = TCP_NODELAY SO_KEEPALIVE TCP_KEEPIDLE=4 TCP_KEEPINTVL=2 TCP_KEEPCNT=3
[export]
path = /mnt/net/export
read only = no
guest ok = yes
force user = root
"""


def missing() -> list[str]:
    """The programs that are not there."""
    needed = ["linux.uml", "uml_switch", "rpc.nfsd", "mount.nfs", "smbd", "mount.cifs", "unshare", "mkfs.ext4"]
    needed += ["gcc"] if _many_registers() else []
    return [name for name in needed if shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin") is None]


class Guests:
    """The three guests, running. `plan` goes to the `job`, the module that runs in each of them. Each guest has a
    serial line to its host (`lines`), which no trouble of the network cuts."""

    def __init__(self, scratch: Path, plan: dict[str, Any], job: str = "inside", memory: str = "256M") -> None:
        self.scratch = scratch
        self.out = scratch / "out"
        self._plan = plan
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guests: dict[str, subprocess.Popen[bytes]] = {}
        self.lines: dict[str, socket.socket] = {}
        self._job, self._memory = job, memory
        self._namespace = ""

    def __enter__(self) -> Guests:
        scratch = self.scratch
        self.out.mkdir(parents=True)
        (self.out / "plan.json").write_text(json.dumps(self._plan))
        (scratch / "smb.conf").write_text(_SMB)
        modules = scratch / "modules" / "lib"
        modules.mkdir(parents=True)
        (modules / "modules").symlink_to(MODULES)
        modprobe = scratch / "modprobe"
        modprobe.write_text(f'#!/bin/sh\nexec /usr/sbin/modprobe -d {scratch}/modules "$@"\n')
        modprobe.chmod(0o755)
        disk = scratch / "disk.img"
        for path, size in ((disk, 64 << 20), (scratch / "page", PAGE)):
            with path.open("wb") as file:
                file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
        try:
            self._boot()
        except BaseException:
            self.end()
            raise
        return self

    def _boot(self) -> None:
        self._switch = self.scratch / "switch"
        (self.scratch / "boot.sh").write_text(f"ip link set lo up\nexec uml_switch -unix {self._switch} </dev/null\n")
        process = subprocess.Popen(
            ["unshare", "-n", "sh", str(self.scratch / "boot.sh")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._processes.append(process)
        own = os.readlink("/proc/self/ns/net")
        while (namespace := os.readlink(f"/proc/{process.pid}/ns/net")) == own:
            time.sleep(0.005)
        self._namespace = namespace
        while not self._switch.exists():
            assert process.poll() is None, "uml_switch ended"
            time.sleep(0.02)
        for role in ADDRESSES:
            self.boot(role)

    def boot(self, role: str) -> None:
        """Switch a guest on; on the disk that it had, if it was killed."""
        number = list(ADDRESSES).index(role) + 1
        ours, theirs = socket.socketpair()
        command = [
            "nsenter", f"--net=/proc/{self._processes[0].pid}/ns/net", "unshare", "--ipc",
            "linux.uml", f"mem={self._memory}", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE}/guest.sh",
            f"role={role}", f"address={ADDRESSES[role]}", f"scratch={self.scratch}", f"python={sys.executable}",
            f"project={ROOT}", f"job={self._job}", f"umid={self.scratch.name}-{role}", f"uml_dir={self.scratch}",
            f"eth0=daemon,fe:fd:00:00:00:0{number},unix,{self._switch}", f"iomem=mmapper,{self.scratch}/page",
            *([f"ubd0={self.scratch}/disk.img"] if role == "server" else []),
            "con=null", "con0=null,fd:1", f"con1=fd:{theirs.fileno()}", "quiet", "panic=1",
        ]  # fmt: skip
        environment = {**os.environ, "TMPDIR": "/dev/shm", **self._preloaded()}  # the guests' memory is a file there
        with (self.scratch / f"{role}.console").open("ab") as console:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )  # fmt: skip
        theirs.close()
        self._processes.append(process)
        self._guests[role] = process
        self.lines[role] = ours

    def _preloaded(self) -> dict[str, str]:
        """What UML needs on CPUs that have more registers than it knows: see xstate.c."""
        library = self.scratch / "xstate.so"
        if not _many_registers():
            return {}
        if not library.exists():
            subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "xstate.c")], check=True)
        return {"LD_PRELOAD": str(library)}

    def stop(self, role: str) -> None:
        """Its kernel stands still, as a virtual machine that is paused."""
        self._guests[role].send_signal(signal.SIGSTOP)

    def go_on(self, role: str) -> None:
        self._guests[role].send_signal(signal.SIGCONT)

    def kill(self, role: str) -> None:
        """As by a loss of power. What its disk has is kept."""
        process = self._guests.pop(role)
        namespace = os.readlink(f"/proc/{process.pid}/ns/ipc")
        _kill(lambda: _of_namespace("ipc", namespace))
        process.wait()
        self.lines.pop(role).close()

    def results(self, seconds: float) -> dict[str, Any]:
        """What the server wrote at the end; raises `TimeoutError`, with what is in the logs."""
        path = self.out / "results.json"
        deadline = time.monotonic() + seconds
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no results after {seconds:.0f} s: {self.logs()}")
            time.sleep(0.1)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def logs(self) -> str:
        """The last words of each guest."""
        paths = [*self.scratch.glob("*.console"), *self.out.glob("*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)

    def end(self) -> None:
        """Kill every process of the namespace that was made here."""
        if self._namespace:
            _kill(lambda: _of_namespace("net", self._namespace))
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()
        for line in self.lines.values():
            line.close()
        self.lines.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _many_registers() -> bool:
    return " amx_tile" in Path("/proc/cpuinfo").read_text()


def _kill(members: Callable[[], list[int]]) -> None:
    """Kill them until there are none."""
    while pids := members():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)


def _of_namespace(kind: str, namespace: str) -> list[int]:
    """The processes of a namespace; none of our own's."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if namespace == os.readlink(f"/proc/{name}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"):
                    found.append(int(name))
            except OSError:  # it ended, or has: a zombie has no namespaces
                continue
    return found
