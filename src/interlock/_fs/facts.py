"""What is known of each kind of filesystem: whom its locks exclude, and who says so.

A row is chosen by the type in the mount table, then by the mount options; the first row that fits wins. Between the
processes of one host every row here excludes, or the system call says ENOSYS or ENOLCK; what differs is *between
hosts*. `YES` and `NO` need a source; everything else is `UNKNOWN`, and what is unknown is not trusted.

`flock` and `ranges` (POSIX and OFD byte ranges) say whether a lock of this kind is seen by all hosts that mount the
place; `creation` whether one of two creators of a name (`O_EXCL`, hard link) fails on every host. `auto` is what
`primitive="auto"` makes of it:

- "flock": flock(2). Where no other host can come in, and where all hosts see it.
- "dual": flock(2) and an OFD range on one descriptor, where it was seen that the two do not conflict with each other.
- "range": an OFD range alone, where it is the only one that lasts.
- "": refused; the user has to say what the place is.

The documented table is made from this one (`docs/tables.py`).
"""

from __future__ import annotations

from fnmatch import fnmatchcase

YES, NO, UNKNOWN = "yes", "no", "unknown"
ALONE = "one host"
"""No other host can mount the place: there is nobody to exclude but this kernel's processes."""

_KERNEL = "https://docs.kernel.org/filesystems/"
_GITHUB = "https://github.com/"
_NFS = "https://man7.org/linux/man-pages/man5/nfs.5.html"
_CIFS = "https://man7.org/linux/man-pages/man8/mount.cifs.8.html"
_FLOCK = "https://man7.org/linux/man-pages/man2/flock.2.html"
_LUSTRE = "https://manpages.ubuntu.com/manpages/precise/man8/mount.lustre.8.html"
_VERSITY = _GITHUB + "versity/versitygw/issues/2351"
_MEASURED = "bare lock calls of two client kernels, 3 s each, made before this library"
_FUSE = "https://libfuse.github.io/doxygen/structfuse__operations.html"


class Fact:
    """One row. `types`: names (with `*`) in the mount table. `options`: any of these mount options must be there."""

    __slots__ = ("auto", "creation", "flock", "options", "ranges", "sources", "title", "types", "why")

    def __init__(
        self,
        title: str,
        types: str,
        *,
        flock: str,
        ranges: str,
        why: str,
        sources: tuple[str, ...] = (),
        creation: str = UNKNOWN,
        auto: str = "",
        options: str = "",
    ) -> None:
        self.title = title
        self.types = tuple(types.split())
        self.options = tuple(options.split())
        self.flock = flock
        self.ranges = ranges
        self.creation = creation
        self.auto = auto
        self.why = why
        self.sources = sources

    def fits(self, fstype: str, options: tuple[str, ...]) -> bool:
        return any(fnmatchcase(fstype, name) for name in self.types) and (
            not self.options or any(fnmatchcase(option, name) for option in options for name in self.options)
        )

    def hosts(self, primitive: str) -> str:
        """Does this primitive exclude between hosts here? `YES`, `NO`, `UNKNOWN` or `ALONE`."""
        if primitive in ("flock", "local"):
            return self.flock
        if primitive == "dual":  # one that excludes is enough
            return next((word for word in (ALONE, YES) if word in (self.flock, self.ranges)), self._weaker())
        return {"marker": self.creation, "range": self.ranges}.get(primitive, UNKNOWN)

    def _weaker(self) -> str:
        return NO if self.flock == self.ranges == NO else UNKNOWN

    def as_dict(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}


def _local(title: str, types: str, why: str, *sources: str) -> Fact:
    return Fact(
        title, types, flock=ALONE, ranges=ALONE, creation=ALONE, auto="flock", why=why, sources=(*sources, _FLOCK)
    )


FACTS: tuple[Fact, ...] = (
    _local(
        "ext2, ext3, ext4, xfs, btrfs, zfs, f2fs, …",
        "ext2 ext3 ext4 xfs btrfs f2fs zfs bcachefs jfs nilfs2 reiserfs vfat exfat ntfs3 hfsplus udf squashfs erofs"
        " iso9660 ecryptfs fuseblk",
        "a disk of this host; the kernel keeps the locks",
    ),
    _local("tmpfs, ramfs", "tmpfs ramfs devtmpfs rootfs hugetlbfs", "memory of this host", _KERNEL + "tmpfs.html"),
    _local(
        "overlay",
        "overlay fuse.fuse-overlayfs",
        "the lock is on the overlay's own inode: seen by all who use this one mount, not by who uses another overlay"
        " of the same layers, or a layer itself",
        _KERNEL + "overlayfs.html",
    ),
    _local(
        "proc, sysfs, cgroup and other windows into the kernel",
        "proc sysfs cgroup cgroup2 debugfs tracefs securityfs configfs bpf mqueue pstore efivarfs devpts binfmt_misc"
        " nsfs",
        "no files can be made there",
    ),
    Fact(
        "NFS mounted with nolock, or local_lock of both kinds",
        "nfs nfs4",
        options="nolock local_lock=all",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="locks stay on this client: they exclude its own processes and nobody else's",
        sources=(_NFS, _GITHUB + "tox-dev/filelock/issues/6"),
    ),
    Fact(
        "NFS mounted with local_lock=flock",
        "nfs nfs4",
        options="local_lock=flock",
        flock=NO,
        ranges=YES,
        creation=YES,
        why="flock stays on this client, byte ranges go to the server",
        sources=(_NFS,),
    ),
    Fact(
        "NFS mounted with local_lock=posix",
        "nfs nfs4",
        options="local_lock=posix",
        flock=YES,
        ranges=NO,
        creation=YES,
        auto="flock",
        why="byte ranges stay on this client, flock goes to the server",
        sources=(_NFS,),
    ),
    Fact(
        "NFS 4",
        "nfs4",
        flock=YES,
        ranges=YES,
        creation=YES,
        auto="dual",
        why="the server keeps both kinds, as leases: a client that is cut off loses them (Linux 2.6.12 and later). The"
        " server's own processes, and exports of cluster filesystems by several servers, are another matter",
        sources=(_FLOCK, _NFS, f"{_MEASURED}: no overlap in 7,676 holds, all three kinds"),
    ),
    Fact(
        "NFS 3",
        "nfs",
        flock=YES,
        ranges=YES,
        creation=YES,
        auto="dual",
        why="lockd keeps both kinds at the server; the lock of a client that died stays until that client boots again."
        " Without lockd the call fails with ENOLCK",
        sources=(_FLOCK, _NFS, f"{_MEASURED}: no overlap in 9,487 holds, all three kinds"),
    ),
    Fact(
        "SMB mounted with nobrl",
        "cifs smb3",
        options="nobrl nolock",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="no lock is sent to the server",
        sources=(_CIFS, f"{_MEASURED}: 563 overlaps in 1,488 holds"),
    ),
    Fact(
        "SMB 3",
        "cifs smb3",
        flock=NO,
        ranges=YES,
        creation=YES,
        auto="range",
        why="both kinds are mandatory byte ranges of the server (Linux 5.5 and later). But the client uses one handle"
        " for all who open a file in the same way, and whoever closes it, having waited in vain, say, ends the flock of"
        " another process at the server. It does not end an OFD range",
        sources=(_FLOCK, "python -m tests.network: a flock is lost each time, on Linux 6.1"),
    ),
    Fact(
        "GPFS (IBM Storage Scale)",
        "gpfs mmfs",
        flock=NO,
        ranges=YES,
        creation=YES,
        auto="dual",
        why="flock succeeds on every node at once; POSIX and OFD ranges are seen by all nodes",
        sources=(
            _GITHUB + "noobaa/noobaa-core/pull/8174",
            _GITHUB + "ibm-granite/granite.build/pull/322",
            _GITHUB + "tox-dev/filelock/issues/389",
            _VERSITY,
        ),
    ),
    Fact(
        "Lustre mounted with localflock",
        "lustre",
        options="localflock",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="locks stay on this client",
        sources=(_LUSTRE,),
    ),
    Fact(
        "Lustre mounted with noflock",
        "lustre",
        options="noflock",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="there are no locks: ENOSYS",
        sources=(_LUSTRE, _GITHUB + "huggingface/huggingface_hub/issues/2399"),
    ),
    Fact(
        "Lustre",
        "lustre",
        flock=YES,
        ranges=YES,
        creation=YES,
        auto="flock",
        why="with the option flock locks are coherent on all clients; older clients mounted without it say ENOSYS",
        sources=(_LUSTRE, "https://cloud.google.com/managed-lustre/docs/posix-compliance"),
    ),
    Fact(
        "CephFS",
        "ceph fuse.ceph fuse.ceph-fuse",
        flock=YES,
        ranges=YES,
        creation=YES,
        auto="flock",
        why="the metadata server keeps both kinds",
        sources=(_KERNEL + "ceph.html", _GITHUB + "noobaa/noobaa-core/pull/8174"),
    ),
    Fact(
        "GlusterFS",
        "fuse.glusterfs",
        flock=YES,
        ranges=UNKNOWN,
        creation=UNKNOWN,
        auto="flock",
        why="the bricks keep the locks. The kernel sends no unlock when the holder of an OFD range dies, so none is"
        " taken",
        sources=("https://docs.gluster.org/en/latest/Administrator-Guide/Mandatory-Locks/", _FUSE),
    ),
    Fact(
        "JuiceFS",
        "fuse.juicefs",
        flock=YES,
        ranges=UNKNOWN,
        creation=YES,
        auto="flock",
        why="its metadata engine keeps flock and POSIX ranges; it has no OFD ranges",
        sources=("https://juicefs.com/docs/cloud/reference/posix_compatibility",),
    ),
    Fact(
        "OCFS2 mounted with localflocks",
        "ocfs2",
        options="localflocks",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="locks stay on this node",
        sources=(_KERNEL + "ocfs2.html",),
    ),
    Fact(
        "OCFS2",
        "ocfs2",
        flock=YES,
        ranges=UNKNOWN,
        creation=YES,
        auto="flock",
        why="flock is cluster-wide; byte ranges are that only with a userspace cluster stack, with o2cb they are local",
        sources=(_KERNEL + "ocfs2.html", "https://manpages.ubuntu.com/manpages/focal/man7/ocfs2.7.html"),
    ),
    Fact(
        "GFS2 of one node",
        "gfs2",
        options="localflocks lockproto=lock_nolock",
        flock=NO,
        ranges=NO,
        creation=YES,
        why="locks stay on this node",
        sources=("https://manpages.ubuntu.com/manpages/precise/man5/gfs2.5.html",),
    ),
    Fact(
        "GFS2",
        "gfs2",
        flock=YES,
        ranges=YES,
        creation=YES,
        auto="flock",
        why="the cluster's lock manager keeps both kinds",
        sources=(_KERNEL + "gfs2.html", "https://access.redhat.com/articles/48659"),
    ),
    Fact(
        "BeeGFS",
        "beegfs fhgfs",
        flock=UNKNOWN,
        ranges=UNKNOWN,
        creation=UNKNOWN,
        why="locks are local to each client unless its configuration says tuneUseGlobalFileLocks = true (it says false"
        " by default); the mount table does not show it",
        sources=("https://doc.beegfs.io/latest/advanced_topics/client_tuning.html", _VERSITY),
    ),
    Fact(
        "OpenAFS",
        "afs_fs openafs AFS",
        flock=UNKNOWN,
        ranges=NO,
        why="byte ranges are local to each client; the server knows whole-file locks only",
        sources=("https://datatracker.ietf.org/doc/draft-mbenjamin-afs-file-locking/",),
    ),
    Fact(
        "AFS of the Linux kernel, flock=local",
        "afs",
        options="flock=local",
        flock=NO,
        ranges=NO,
        why="locks stay on this client",
        sources=("https://docs.kernel.org/filesystems/afs.html",),
    ),
    Fact(
        "AFS of the Linux kernel",
        "afs",
        flock=YES,
        ranges=UNKNOWN,
        auto="flock",
        why="whole-file locks go to the server; ranges do with flock=strict and flock=write only",
        sources=(_KERNEL + "afs.html",),
    ),
    Fact(
        "AFP (afpfs)",
        "afpfs fuse.afpfs fuse.afpfs-ng",
        flock=NO,
        ranges=UNKNOWN,
        why="every process of every host gets the lock, or ENOTSUP",
        sources=(_GITHUB + "tox-dev/filelock/issues/77",),
    ),
    Fact(
        "VirtioFS",
        "virtiofs",
        flock=UNKNOWN,
        ranges=UNKNOWN,
        creation=YES,
        why="locks are local to each guest unless its virtiofsd was told to share them; the guest cannot see whether",
        sources=(
            "https://gitlab.com/virtio-fs/virtiofsd/-/merge_requests/4",
            _GITHUB + "kata-containers/kata-containers/issues/3408",
        ),
    ),
    Fact(
        "Docker Desktop's shared directories",
        "fakeowner fuse.grpcfuse grpcfuse osxfs",
        flock=NO,
        ranges=NO,
        why="one file has inodes of two filesystems, each with locks of its own: two processes of one container get"
        " the lock at once",
        sources=(_GITHUB + "docker/for-mac/issues/7004",),
    ),
    Fact(
        "9p (QEMU, WSL, gVisor)",
        "9p drvfs v9fs",
        flock=NO,
        ranges=NO,
        creation=UNKNOWN,
        why="servers answer that a lock was granted and keep none: locks are those of each guest",
        sources=(
            _GITHUB + "qemu/qemu/blob/master/hw/9pfs/9p.c",
            _GITHUB + "gastownhall/beads/issues/3613",
        ),
    ),
    Fact(
        "shared folders of VirtualBox, VMware, Parallels",
        "vboxsf vmhgfs fuse.vmhgfs-fuse prl_fs",
        flock=UNKNOWN,
        ranges=UNKNOWN,
        why="locks are those of each guest, as far as is known",
        sources=(_GITHUB + "vmware/open-vm-tools/issues/494",),
    ),
    Fact(
        "SSHFS",
        "fuse.sshfs",
        flock=NO,
        ranges=NO,
        why="SFTP has no locks: they are those of each client",
        sources=(_GITHUB + "libfuse/sshfs/issues/326", _GITHUB + "openssh/openssh-portable/pull/66"),
    ),
    Fact(
        "object stores as files (s3fs, gcsfuse, rclone, …)",
        "fuse.s3fs fuse.gcsfuse gcsfuse fuse.rclone fuse.goofys fuse.mount-s3 fuse.mountpoint-s3 fuse.blobfuse*",
        flock=NO,
        ranges=NO,
        creation=NO,
        why="an object store has no locks: they are those of each client; creation of a name is not exclusive either",
        sources=(_GITHUB + "s3fs-fuse/s3fs-fuse/issues/2137", "https://garagehq.deuxfleurs.fr/connect/fs.html"),
    ),
    Fact(
        "FUSE over another filesystem (EncFS, gocryptfs, bindfs, mergerfs)",
        "fuse.encfs fuse.gocryptfs fuse.bindfs fuse.mergerfs fuse.unionfs*",
        flock=UNKNOWN,
        ranges=UNKNOWN,
        why="locks mostly end at this mount, whatever the filesystem below it would do",
        sources=(_GITHUB + "vgough/encfs/issues/345",),
    ),
    Fact(
        "FUSE of any other name",
        "fuse fuse.* fuseblk.*",
        flock=UNKNOWN,
        ranges=UNKNOWN,
        why="a FUSE filesystem that implements no locks gets those of this kernel, which no other host sees; and"
        " whether an OFD range is freed when its holder dies is up to it (the kernel sends no unlock then)",
        sources=(_FUSE,),
    ),
)

ANY_OTHER = Fact(
    "any other type",
    "*",
    flock=UNKNOWN,
    ranges=UNKNOWN,
    why="nothing is known of this type of filesystem",
)


def of(fstype: str, options: tuple[str, ...] = ()) -> Fact:
    """The row for a filesystem of this type, mounted with these options."""
    for fact in FACTS:
        if fact.fits(fstype, options):
            return fact
    return ANY_OTHER
