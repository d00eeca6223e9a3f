"""The URL of a server whose engine keeps locks, taken apart once; and what of it may be shown.

A URL may hold credentials. Nothing here shows them: not `repr`, not `public`, not an error message, not even the text
of a URL that cannot be read, since the part that cannot be read may be a password that was not percent-encoded.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ._errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Address", "command_line", "key_of", "name_of", "public"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
_USERINFO = re.compile(r"\A([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_WITHOUT_SERVER = frozenset(["file", "marker", "memory"])
"""Schemes whose paths may have an "@", and which have no credentials."""
_SECRET = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
"""Keys of a query whose values are nobody's business."""

_HINT = "percent-encode what is special in user names and passwords ('/' is %2F, '#' is %23, '?' is %3F, '@' is %40)"


class Address:
    """`scheme://[user[:password]@]host[:port][,host...][/path][?il_option=...&driver_key=...][#name]`.

    `hosts`: pairs of a name and a port or None; empty where the URL has none (a Unix socket). `options`: the keys of
    ours, with their prefix "il_"; `query`: all others, for the driver. `name`: the lock's, unquoted, or "". `public`:
    the URL without credentials and name, for messages. Two are equal if everything is, credentials included.
    """

    __slots__ = ("hosts", "name", "options", "password", "path", "public", "query", "scheme", "username")

    def __init__(
        self,
        scheme: str,
        hosts: tuple[tuple[str, int | None], ...],
        *,
        username: str | None = None,
        password: str | None = None,
        path: str = "",
        options: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.scheme = scheme
        self.hosts = hosts
        self.username = username
        self.password = password
        self.path = path
        self.options = options or {}
        self.query = query or {}
        self.name = name
        self.public = self._text("", {key: self.query[key] for key in self.query if not _SECRET.search(key)})

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `ValueError`, which does not show the URL."""
        scheme, colon, rest = url.partition("://")
        scheme = scheme.lower()
        if not colon or not _SCHEME.match(scheme):
            raise ValueError("this is not a URL: it begins with no scheme://")
        rest, _, fragment = rest.partition("#")
        rest, _, query = rest.partition("?")
        netloc, slash, path = rest.partition("/")
        userinfo, at, where = netloc.rpartition("@")
        if "@" in path or "@" in query or ("@" in fragment and "#" in fragment):
            raise ValueError(f"this {scheme}:// URL has an '@' behind its host: {_HINT}")
        username, has_password, password = userinfo.partition(":")
        options, others = _split_query(scheme, query)
        return cls(
            scheme,
            _hosts(scheme, where),
            username=unquote(username) if username else None,
            password=unquote(password) if at and has_password else None,
            path=unquote(slash + path),
            options=options,
            query=others,
            name=unquote(fragment, errors="surrogateescape"),
        )

    @property
    def has_credentials(self) -> bool:
        return self.username is not None or self.password is not None or any(map(_SECRET.search, self.query))

    def url(self, name: str = "") -> str:
        """The whole URL, credentials included: only for those who open it."""
        userinfo = ""
        if self.username is not None or self.password is not None:
            userinfo = quote(self.username or "", safe="")
            if self.password is not None:
                userinfo += ":" + quote(self.password, safe="")
            userinfo += "@"
        fragment = "#" + quote(name, safe="", errors="surrogateescape") if name else ""
        return self._text(userinfo, self.query) + fragment

    def _text(self, userinfo: str, query: dict[str, str]) -> str:
        hosts = ",".join(_host_text(*host) for host in self.hosts)
        pairs = sorted({**self.options, **query}.items())
        return f"{self.scheme}://{userinfo}{hosts}{quote(self.path)}" + ("?" + urlencode(pairs) if pairs else "")

    def hide(self, text: str, *, user: bool = False) -> str:
        """A driver's or a server's words, which may repeat what it was told, without this URL's secrets. `user`: the
        user's name is one, too."""
        secrets = [self.password, *(self.query[key] for key in self.query if _SECRET.search(key))]
        for secret in (*secrets, self.username if user else None):
            if secret and len(secret) > 3:  # a shorter one is found in many a word
                for form in (secret, quote(secret, safe=""), quote(secret)):
                    text = text.replace(form, "***")
        return text

    def without_name(self) -> Address:
        return self if not self.name else Address(
            self.scheme, self.hosts, username=self.username, password=self.password, path=self.path,
            options=self.options, query=self.query,
        )  # fmt: skip

    def _facts(self) -> tuple[object, ...]:
        pairs = tuple(sorted(self.options.items())), tuple(sorted(self.query.items()))
        return self.scheme, self.hosts, self.username, self.password, self.path, pairs, self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def __repr__(self) -> str:
        return f"<Address {self.public}>"

    def __reduce__(self) -> str:
        raise TypeError("an address may hold credentials, and cannot be pickled")


def _split_query(scheme: str, text: str) -> tuple[dict[str, str], dict[str, str]]:
    options: dict[str, str] = {}
    others: dict[str, str] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        where = options if key.startswith("il_") else others
        if key in where:
            raise ValueError(f"this {scheme}:// URL says {printable(key)} twice")
        where[key] = value
    return options, others


def _hosts(scheme: str, text: str) -> tuple[tuple[str, int | None], ...]:
    found: list[tuple[str, int | None]] = []
    for part in text.split(",") if text else ():
        if part.startswith("["):  # an IPv6 address
            host, closed, rest = part[1:].partition("]")
            colon, port = rest[:1] if closed else "[", rest[1:]
        else:
            host, colon, port = part.partition(":")
        if not host or colon not in ("", ":") or (colon and not (port.isascii() and port.isdigit())):
            raise ValueError(f"this {scheme}:// URL has a host or a port that cannot be read: {_HINT}")
        if colon and not 0 < int(port) < 65536:
            raise ValueError(f"this {scheme}:// URL has a port that is not between 1 and 65535: {_HINT}")
        found.append((unquote(host).lower(), int(port) if colon else None))
    return tuple(found)


def _host_text(host: str, port: int | None) -> str:
    shown = f"[{quote(host, safe=':')}]" if ":" in host else quote(host, safe="")
    return shown if port is None else f"{shown}:{port}"


def public(target: str) -> str:
    """A target as it may be shown: a URL without user and password and without secrets in its query. Of one that cannot
    be read only the scheme: what makes it so may be a password that was not percent-encoded."""
    scheme, is_url, _ = target.partition("://")
    if not is_url:
        return target
    if scheme.lower() in _WITHOUT_SERVER:
        return _USERINFO.sub(r"\1", target)
    try:
        shown = Address.parse(target).public
    except ValueError:
        return f"{scheme}://…"
    return shown + "".join(target.partition("#")[1:])


def command_line(words: Iterable[str]) -> str:
    """A command line as it may be shown: URLs in it without credentials."""
    return " ".join(_URL.sub(lambda found: public(found[0]), word) if "://" in word else word for word in words)


def key_of(address: Address, name: str) -> str:
    """The key of a line: what orders locks in every process alike, and holds the name."""
    return f"{address.public}#{name}"


def name_of(key: str) -> str:
    """The name of the lock that a line's key is of."""
    return key.partition("#")[2]
