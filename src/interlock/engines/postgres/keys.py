"""From the name of a lock to its 64-bit keys, and the SQL that takes them.

A key is a BLAKE2b hash, so two names may share one: in a database with a million names in use the odds are one in ten
million that any two do. Then they exclude each other for nothing; a lock that excludes too little does not come of it.
"""

from __future__ import annotations

from hashlib import blake2b

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Fence = Literal["sequence", "xid", "table", "none"]
    Scope = Literal["session", "xact"]

FORMAT = "1"
"""Of the keys and of the schema `interlock`. Two formats do not exclude each other, so it is part of every key."""

_VALUE_BITS = 20
_COUNT_TAG = 1 << _VALUE_BITS


def key_of(kind: str, name: str) -> int:
    """A signed 64-bit key. `kind` keeps what is locked for different purposes apart."""
    digest = blake2b(
        f"{kind}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8, person=b"interlock " + FORMAT.encode()
    )
    return int.from_bytes(digest.digest(), "big", signed=True)


def main_key(name: str) -> int:
    """Of `Lock`, and of `RWLock`, which so exclude each other."""
    return key_of("lock", name)


def update_key(name: str) -> int:
    """Held by updaters and writers, beside the main key: one at a time."""
    return key_of("update", name)


def gate_key(name: str) -> int:
    """Of a semaphore: who holds it is the next to get a permit."""
    return key_of("gate", name)


def permits_base(name: str) -> int:
    """Of a semaphore: the 43 bits that its slots and its number of permits have in common."""
    return key_of("permits", name) & ~((1 << (_VALUE_BITS + 1)) - 1)


def count_key(base: int, permits: int) -> int:
    """Held shared by whoever uses the semaphore with this number of permits. Slot i is `base + i`."""
    return base | _COUNT_TAG | (permits - 1)


def permits_of(key: int) -> int:
    """The number that a `count_key` tells."""
    return (key & (_COUNT_TAG - 1)) + 1


def halves(key: int) -> tuple[int, int]:
    """As pg_locks shows it: classid and objid, both unsigned."""
    unsigned = key & 0xFFFFFFFFFFFFFFFF
    return unsigned >> 32, unsigned & 0xFFFFFFFF


def lock_function(scope: Scope, shared: bool, wait: bool) -> str:
    return f"pg_{'' if wait else 'try_'}advisory{'_xact' if scope == 'xact' else ''}_lock{'_shared' if shared else ''}"


def lock_sql(scope: Scope, fence: Fence, *, shared: bool = False, wait: bool = False) -> str:
    """Take the key $1 and give the token of it in the same statement, after it is taken.

    The answer is the token (0 where there is none to be), or NULL or no row if it is not to be had at once.
    """
    call = f"{lock_function(scope, shared, wait)}($1)"
    if shared or fence == "none":
        number = "0::bigint"
    elif fence == "sequence":
        number = "nextval('interlock.fence')"
    elif fence == "xid":
        number = "pg_current_xact_id()::text::bigint"
    else:
        taken = f"{call} IS NOT NULL" if wait else call  # of type void, which is never NULL
        return (
            f"WITH l AS MATERIALIZED (SELECT {taken} AS taken) "  # noqa: S608 - nothing of a user's is in it
            "INSERT INTO interlock.tokens AS t (key, token) SELECT $1, 1 FROM l WHERE taken "
            "ON CONFLICT (key) DO UPDATE SET token = t.token + 1 RETURNING token"
        )
    if wait:
        return f"WITH l AS MATERIALIZED (SELECT {call}) SELECT {number} FROM l"  # noqa: S608
    return f"SELECT CASE WHEN {call} THEN {number} END"


def unlock_sql(shared: bool) -> str:
    return f"SELECT pg_advisory_unlock{'_shared' if shared else ''}($1)"


OWN_LOCKS = (
    "SELECT ((classid::bigint << 32) | objid::bigint)::text, mode FROM pg_locks "
    "WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()"
)
"""What the asking session really holds."""

WAITED_FOR = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND NOT granted "
    "AND classid = (($1 >> 32) & 4294967295)::oid AND objid = ($1 & 4294967295)::oid "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1"
)
"""Does anybody wait for the key $1?"""

SETUP = {
    "sequence": (
        "CREATE SCHEMA IF NOT EXISTS interlock",
        f"COMMENT ON SCHEMA interlock IS 'interlock format {FORMAT}'",
        "GRANT USAGE ON SCHEMA interlock TO PUBLIC",
        "CREATE SEQUENCE IF NOT EXISTS interlock.fence",
        "GRANT USAGE ON SEQUENCE interlock.fence TO PUBLIC",
    ),
    "table": (
        "CREATE SCHEMA IF NOT EXISTS interlock",
        f"COMMENT ON SCHEMA interlock IS 'interlock format {FORMAT}'",
        "GRANT USAGE ON SCHEMA interlock TO PUBLIC",
        "CREATE TABLE IF NOT EXISTS interlock.tokens (key bigint PRIMARY KEY, token bigint NOT NULL)",
        "GRANT SELECT, INSERT, UPDATE ON interlock.tokens TO PUBLIC",
    ),
}
"""What each fence needs in the database, made at the first acquire; an administrator may make it before."""

SETUP_LOOK = (
    "SELECT to_regclass($1) IS NOT NULL, "
    "coalesce(obj_description(to_regnamespace('interlock')::oid, 'pg_namespace'), '')"
)
