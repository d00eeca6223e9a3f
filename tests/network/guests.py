"""User-mode Linux guests as hosts: one server (NFS and SMB), two clients, each a kernel with caches of its own.

Theory of operation
-------------------
The guests are processes of this machine that run a Linux kernel of their own (Debian's user-mode-linux). They share
nothing but a switch in a network namespace of its own, so that nothing reaches the host's network. Their root is the
host's, read-only, so no image is made; what they write goes to tmpfs, to the server's disk, and to one directory of the
host, where the results appear.

The server guest runs the plan (`inside`): it tells the clients what to mount and which workers to start, and referees.
The host only boots, waits for the results, and ends what it started, by pid. A guest is several processes of the host,
in sessions of their own: what finds them all is the network namespace.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ADDRESSES", "Guests", "missing"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ADDRESSES = {"server": "10.9.0.1", "one": "10.9.0.2", "two": "10.9.0.3"}
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
[export]
path = /mnt/net/export
read only = no
guest ok = yes
force user = root
"""


def missing() -> list[str]:
    """The programs that are not there."""
    needed = ["linux.uml", "uml_switch", "rpc.nfsd", "mount.nfs", "smbd", "mount.cifs", "unshare", "mkfs.ext4"]
    return [name for name in needed if shutil.which(name, path=os.defpath + ":/usr/sbin:/sbin") is None]


class Guests:
    """The three guests, running. `plan` goes to `inside.Server`."""

    def __init__(self, scratch: Path, plan: dict[str, Any]) -> None:
        self.scratch = scratch
        self.out = scratch / "out"
        self._plan = plan
        self._processes: list[subprocess.Popen[bytes]] = []
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
        with disk.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
        try:
            self._boot()
        except BaseException:
            self.end()
            raise
        return self

    def _boot(self) -> None:
        switch = self.scratch / "switch"
        commands = []
        for number, (role, address) in enumerate(ADDRESSES.items(), 1):
            commands.append(
                [
                    "linux.uml", "mem=256M", "rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE}/guest.sh",
                    f"role={role}", f"address={address}", f"scratch={self.scratch}", f"python={sys.executable}",
                    f"project={ROOT}", f"umid={self.scratch.name}-{role}", f"uml_dir={self.scratch}",
                    f"eth0=daemon,fe:fd:00:00:00:0{number},unix,{switch}",
                    *([f"ubd0={self.scratch}/disk.img"] if role == "server" else []),
                    "con=null", "con0=null,fd:1", "quiet", "panic=1",
                ]
            )  # fmt: skip
        (self.scratch / "boot.sh").write_text(
            "ip link set lo up\n"
            f"uml_switch -unix {switch} </dev/null >/dev/null 2>&1 &\n"
            f"while [ ! -S {switch} ]; do sleep 0.05; done\n"
            + "".join(
                f"{shlex.join(command)} </dev/null >{self.scratch}/{role}.console 2>&1 &\n"
                for role, command in zip(ADDRESSES, commands, strict=True)
            )
            + "wait\n"
        )
        environment = {**os.environ, "TMPDIR": "/dev/shm"}  # the guests' memory is a file there
        self._processes.append(
            subprocess.Popen(["unshare", "-n", "sh", str(self.scratch / "boot.sh")], env=environment)
        )
        pid, own = self._processes[-1].pid, os.readlink("/proc/self/ns/net")
        while (namespace := os.readlink(f"/proc/{pid}/ns/net")) == own:
            time.sleep(0.005)
        self._namespace = namespace

    def results(self, seconds: float) -> dict[str, Any]:
        """What the server wrote at the end; raises `TimeoutError`, with what is in the logs."""
        path = self.out / "results.json"
        deadline = time.monotonic() + seconds
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no results after {seconds:.0f} s: {self._logs()}")
            time.sleep(0.1)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _logs(self) -> str:
        paths = [*self.scratch.glob("*.console"), *self.out.glob("*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)

    def end(self) -> None:
        """Kill every process of the namespace that was made here."""
        for process in self._processes:
            while members := _of_namespace(self._namespace):
                for pid in members:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                time.sleep(0.02)
            process.wait()
        self._processes.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _of_namespace(namespace: str) -> list[int]:
    """The processes of a network namespace; none of our own's."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if namespace == os.readlink(f"/proc/{name}/ns/net") != os.readlink("/proc/self/ns/net"):
                    found.append(int(name))
            except OSError:  # it ended, or has: a zombie has no namespaces
                continue
    return found
