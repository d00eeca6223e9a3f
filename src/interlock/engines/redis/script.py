"""The script that decides, in the server, who holds a lock: one source for all modes, run as one step.

Theory of operation
-------------------
A lock's whole state is one value, under the key `il1:{HASH}:s` ("il1" is the version of this format; the braces keep a
lock's keys in one slot of a cluster). It has three lists, in order of arrival: those who hold, those who wait, and
those who were undone. Each entry ends at a time of its own by the server's clock, so what a crash leaves behind goes
away, and so does the key, which expires when its last entry does.

    entry: {id, mode, ends, lasts, about, slot, token, lease, since, step}     (times in ms)
    mode: r, u, w; x, an updater that upgrades; p, a permit of a semaphore
    step: how often its owner has asked for another mode

Every call first removes entries that have ended, then grants to those in front of the queue, in order, as many as fit:
so whoever calls first after a release, a death or a timeout hands over, and nobody is passed. Who is granted while it
waits holds for the time of a short notice only, and is told on the channel of its process, `il1:PROCESS`. It calls
again, and with that its lease begins. A message that is lost costs time, not exclusion: waiters look by themselves now
and then.

Each call may be repeated with the same id, and the first copy of it may come much later, by a connection that was given
up. So an id that was undone when a copy may be under way stays in the list of the undone for a while; and a change of
mode that is not newer than another that has come is ignored: else the copy of an old downgrade would let others in
beside a writer.

A server that came back may know what was true a while ago: an updater that has become a writer since, a waiter that has
a slot by now. So a renewal says what its owner believes to hold, and is refused if that is more than is written here.

Tokens are the server's time in microseconds, or one more than the last one if that is greater: so they rise also when
the last one was forgotten (a failover, a restart without a file), as long as the clock does not go back.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ["SHA", "SOURCE", "TOKEN_DAYS"]

TOKEN_DAYS = 7
"""The last token is remembered for so long after the last grant. Then the clock alone makes the next one greater."""

SOURCE = b"""
local S, T = KEYS[1], KEYS[2]
local op, id = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local NOTICE, UNDONE, KEEP = 3000, 10000, 604800000

local s, dirty
local raw = redis.call('GET', S)
if raw then
  s = cmsgpack.unpack(raw)
else
  s = {k = '', p = 0, h = {}, q = {}, d = {}}
end

local function prune(list)
  local i = 1
  while i <= #list do
    local e = list[i]
    if e[3] - now > e[4] then -- the clock was set back
      e[3] = now + e[4]
      dirty = true
    end
    if e[3] <= now then
      table.remove(list, i)
      dirty = true
    else
      i = i + 1
    end
  end
end

local function find(list)
  for i, e in ipairs(list) do
    if e[1] == id then return e, i end
  end
end

local function fits(mode)
  if mode == 'p' then return #s.h < s.p end
  for _, e in ipairs(s.h) do
    if mode == 'w' or e[2] == 'w' or e[2] == 'x' or (mode == 'u' and e[2] == 'u') then return false end
  end
  return true
end

local function free_slot()
  local used = {}
  for _, e in ipairs(s.h) do used[e[6]] = true end
  local slot = 0
  while used[slot] do slot = slot + 1 end
  return slot
end

local function tell(who)
  if who ~= id then redis.pcall('PUBLISH', 'il1:' .. string.match(who, '^[^.]*'), who) end
end

local function advance()
  local first = s.h[1]
  if first and #s.h == 1 and first[2] == 'x' then
    first[2] = 'w'
    first[7] = ''
    dirty = true
    tell(first[1])
  end
  while s.q[1] and fits(s.q[1][2]) do
    local e = table.remove(s.q, 1)
    if e[2] == 'p' then e[6] = free_slot() end
    s.h[#s.h + 1] = e
    e[4] = math.min(e[8], NOTICE)
    e[3], e[9] = now + e[4], now
    dirty = true
    tell(e[1])
  end
end

local function save()
  if not dirty then return end
  local last = 0
  for _, list in ipairs({s.h, s.q, s.d}) do
    for _, e in ipairs(list) do
      if e[3] > last then last = e[3] end
    end
  end
  if last == 0 then
    redis.call('DEL', S)
  else
    redis.call('SET', S, cmsgpack.pack(s), 'PX', string.format('%.0f', last - now + 1000))
  end
end

local function late(e, step)
  if step + 0 < (e[10] or 0) then return true end
  e[10] = step + 0
  return false
end

local function tokened(e)
  if e[2] == 'w' and e[7] == '' then
    local t = time[1] * 1000000 + time[2]
    local before = tonumber(redis.call('GET', T) or '0')
    if t <= before then t = before + 1 end
    e[7] = string.format('%.0f', t)
    redis.call('SET', T, e[7], 'PX', KEEP)
  end
  dirty = true
  save()
  return {1, e[7], e[6]}
end

local function contended(upto)
  local ends = now + 3600000
  for _, e in ipairs(s.h) do
    if e[1] ~= id and e[3] < ends then ends = e[3] end
  end
  for i = 1, math.min(upto, #s.q) do
    if s.q[i][1] ~= id and s.q[i][3] < ends then ends = s.q[i][3] end
  end
  save()
  return {0, ends - now}
end

prune(s.h)
prune(s.q)
prune(s.d)

if op == 'inspect' then
  local function told(list)
    local found = {}
    for i, e in ipairs(list) do found[i] = {e[2], e[5], e[6], now - e[9], e[1]} end
    return found
  end
  return {s.k, s.p, s.n or '', told(s.h), told(s.q)}
end

advance()

if op == 'acquire' then
  local mode, lease, alive, kind, permits, info = ARGV[3], ARGV[4] + 0, ARGV[5] + 0, ARGV[6], ARGV[7] + 0, ARGV[8]
  if find(s.d) then return contended(0) end
  if s.h[1] or s.q[1] then
    if s.k ~= kind then save() return {-1, s.k} end
    if s.p ~= permits then save() return {-2, s.p} end
  else
    s.k, s.p, s.n = kind, permits, ARGV[9]
  end
  local e, at = find(s.h)
  if not e then
    e, at = find(s.q)
    if e then
      e[3] = now + alive
      dirty = true
      return contended(at)
    end
    e = {id, mode, now + alive, alive, info, 0, '', lease, now}
    if s.q[1] or not fits(mode) then
      if alive == 0 then return contended(#s.q) end
      dirty = true
      s.q[#s.q + 1] = e
      return contended(#s.q)
    end
    if mode == 'p' then e[6] = free_slot() end
    s.h[#s.h + 1] = e
  end
  e[3], e[4], e[5] = now + lease, lease, info
  return tokened(e)
elseif op == 'renew' then
  local e = find(s.h)
  if e and ARGV[4] == 'w' and (e[2] == 'u' or e[2] == 'r') and (e[10] or 0) <= ARGV[5] + 0 then e = nil end
  if e and ARGV[6] ~= '' and e[6] ~= ARGV[6] + 0 then e = nil end
  if e then
    e[4] = ARGV[3] + 0
    e[3] = now + e[4]
    dirty = true
  end
  save()
  return e and 1 or 0
elseif op == 'leave' then
  local e, at = find(s.h)
  if e then
    table.remove(s.h, at)
    dirty = true
  end
  local w, place = find(s.q)
  if w then
    table.remove(s.q, place)
    dirty = true
  end
  if ARGV[3] == '1' then
    s.d[#s.d + 1] = {id, '', now + UNDONE, UNDONE}
    dirty = true
  end
  advance()
  save()
  return e and 1 or 0
elseif op == 'upgrade' then
  local e = find(s.h)
  if not e then save() return {-3, ''} end
  if late(e, ARGV[3]) then return contended(0) end
  if e[2] ~= 'w' then
    if #s.h > 1 then
      e[2] = 'x'
      dirty = true
      return contended(0)
    end
    e[2], e[7] = 'w', ''
  end
  return tokened(e)
elseif op == 'mode' then
  local e = find(s.h)
  if e and not late(e, ARGV[4]) then
    e[2] = ARGV[3]
    dirty = true
    advance()
  end
  save()
  return e and 1 or 0
elseif op == 'break' then
  local count = 0
  for named = 3, #ARGV do
    id = ARGV[named]
    local e, at = find(s.h)
    if e then
      table.remove(s.h, at)
      count, dirty = count + 1, true
    end
  end
  id = ''
  advance()
  save()
  return count
end
return redis.error_reply('il1: no such call')
"""

SHA = sha1(SOURCE, usedforsecurity=False).hexdigest().encode()
"""How the server names it."""
