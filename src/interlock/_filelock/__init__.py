"""The API of filelock on the engines of interlock. Names and bookkeeping only; what decides lives in the core.

`HOMES` is the single table of public names: `interlock.filelock` serves them from here, each with the first use.
A name whose module does not exist yet is absent.
"""

from __future__ import annotations

COMPATIBLE = "4.2.11"
"""The version of filelock whose API this is; what `filelock.__version__` says, because dependents look."""

HOMES = {
    "api": ("AcquireReturnProxy", "BaseFileLock"),
    "async_": (
        "AsyncAcquireReturnProxy", "AsyncUnixFileLock", "AsyncWindowsFileLock", "BaseAsyncFileLock",
    ),
    "async_readwrite": (
        "AsyncAcquireReadWriteReturnProxy", "AsyncAcquireSoftReadWriteReturnProxy", "AsyncReadWriteLock",
        "AsyncSoftReadWriteLock",
    ),
    "async_soft": ("AsyncSoftFileLease", "AsyncSoftFileLock", "AsyncStrictSoftFileLock"),
    "errors": (
        "LeaseSettingsMismatch", "SoftFileLockLifetimeWarning", "SoftFileLockProtocolError", "Timeout",
    ),
    "native": ("UnixFileLock", "WindowsFileLock", "has_fcntl", "lock_descriptor", "unlock_descriptor"),
    "options": ("CloseErrorPolicy", "ContextErrorPolicy", "LockOptions"),
    "readwrite": ("ReadWriteLock",),
    "soft": ("MarkerSoftFileLock", "OwnerMode", "OwnerRecord", "SoftFileLock"),
    "soft_lease": ("CompromiseReason", "LeaseCompromise", "SoftFileLease"),
    "soft_readwrite": ("SoftReadWriteLock",),
    "soft_strict": ("StrictSoftFileClaim", "StrictSoftFileClaimState", "StrictSoftFileLock"),
}  # fmt: skip
HOME = {name: home for home, names in HOMES.items() for name in names}
