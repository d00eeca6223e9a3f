"""Who holds and who waits, as PostgreSQL's own tables tell it."""

from __future__ import annotations

import os
import time
from time import monotonic

from ..._errors import EngineError
from ..._identity import names
from ..._report import Party, Report
from .session import Gone, Late, ServerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..._core.arbiter import Line
    from ..._model import Claim
    from .pool import Pool

_SQL = (
    "SELECT l.pid, l.mode, l.granted, extract(epoch FROM l.waitstart), a.application_name, a.usename, a.client_addr, "
    "extract(epoch FROM a.backend_start), ((l.classid::bigint << 32) | l.objid::bigint), extract(epoch FROM now()) "
    "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND ((l.classid::bigint << 32) | l.objid::bigint) BETWEEN $1 AND $2 ORDER BY l.granted DESC, l.waitstart, l.pid"
)


def rows(pool: Pool, first: int, last: int) -> list[list[str]]:
    """Of all keys between these two. Raises `EngineError`."""
    try:
        try:
            answer = _ask(pool, first, last)
        except Gone:  # perhaps long ago, by a restart of the server
            answer = _ask(pool, first, last)
    except (Gone, Late, ServerError) as error:
        raise EngineError(f"{pool.settings.where}: PostgreSQL cannot be asked: {error}") from None
    width = range(answer.nfields)
    return [
        ["" if (value := answer.get_value(row, column)) is None else value.decode() for column in width]
        for row in range(answer.ntuples)
    ]


def _ask(pool: Pool, first: int, last: int) -> Any:
    session = pool.home()
    try:
        return session.ask(_SQL, first, last)
    finally:
        session.leave()


def report(pool: Pool, line: Line, wanted: list[int]) -> Report:
    """`wanted`: the main key, and the one of updaters."""
    main, update = wanted
    found = rows(pool, main, main)
    updaters = {row[0] for row in rows(pool, update, update) if row[2] == "t"}
    holders: list[Party] = []
    waiters: list[Party] = []
    modes: dict[str, set[str]] = {}
    for row in found:
        if row[2] == "t":
            modes.setdefault(row[0], set()).add(row[1])
    here = _claims_here(pool, line)
    for row in found:
        if row[2] == "t":
            exclusive = "ExclusiveLock" in modes[row[0]]
            if exclusive and row[1] == "ShareLock":
                continue  # of one who has more
            mode = "write" if exclusive else "update" if row[0] in updaters else "read"
            mine = here.get(int(row[0]), [])
            holders += [_mine(claim, row) for claim in mine] or [_party(row, mode)]
        else:
            waiters.append(_party(row, "read" if row[1] == "ShareLock" else "write", position=len(waiters) + 1))
    return Report(line.resource, "postgresql", tuple(holders), tuple(waiters), enforced=True)


def _claims_here(pool: Pool, line: Line) -> dict[int, list[Claim]]:
    """What this process holds of the name, by the server's process."""
    return {
        session.pid: [claim for claim in list(session.claims) if claim.line.key == line.key]
        for session in list(pool.sessions)
    }


def _mine(claim: Claim, row: list[str]) -> Party:
    who = _party(row, claim.mode)
    thread, task = names(claim)
    return Party(
        os.getpid(), who.command, who.user, who.host, thread=thread, task=task, mode=claim.mode,
        since=time.time() - (monotonic() - claim.since), since_exact=True,
        waited=claim.since - claim.began if claim.began else 0.0,
    )  # fmt: skip


def _party(row: list[str], mode: str, position: int | None = None) -> Party:
    words = row[4].split(" ", 3)
    since, waited = float(row[7]) if row[7] else None, None
    if position is not None and row[3]:
        since, waited = float(row[3]), max(0.0, float(row[9]) - float(row[3]))
    facts: dict[str, Any] = {
        "user": row[5], "since": since, "since_exact": position is not None, "mode": mode, "position": position,
        "waited": waited,
    }  # fmt: skip
    if len(words) == 4 and words[0] == "interlock" and words[1].isascii() and words[1].isdigit() and len(words[1]) < 11:
        return Party(int(words[1]), words[3], host=words[2], **facts)
    return Party(None, f"{row[4] or 'a session'} (backend {row[0]})", host=row[6], **facts)


def blame(pool: Pool, line: Line, engine: Any) -> tuple[Party | None, str]:
    """One holder, and which session of the server it is."""
    try:
        found = engine.inspect(line)
    except EngineError:
        return None, ""
    if not found.holders:
        return None, ""
    waiting = f", {len(found.waiters)} waiting" if found.waiters else ""
    return found.holders[0], f"on {pool.settings.where}{waiting}"


def permits_report(pool: Pool, line: Line, base: int, gate: int) -> Report:
    """Of a semaphore whose first slot is `base`."""
    here = {
        (session.pid, base + (claim.slot or 0)): claim
        for session in list(pool.sessions)
        for claim in list(session.claims)
        if claim.line is line
    }
    holders: list[Party] = []
    for row in rows(pool, base, base + (1 << 20) - 1):
        if row[2] == "t":
            claim = here.get((int(row[0]), int(row[8])))
            holders.append(_mine(claim, row) if claim else _party(row, "write"))
    waiters: list[Party] = []
    for row in rows(pool, gate, gate):
        waiters.append(_party(row, "write", position=len(waiters) + 1))
    return Report(line.resource, "postgresql", tuple(holders), tuple(waiters), enforced=True)
