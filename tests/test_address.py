"""URLs are taken apart once, and nothing shows what is secret in them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock import AsyncLock, Lock, RWLock, Semaphore, UnsupportedError
from interlock._address import Address, key_of, name_of, public

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_parts() -> None:
    its = Address.parse("Redis+Sentinel://us%2Fer:p%40ss@H1:1,[::1]:2,h3/a%20b/0?il_x=1&ssl=true&il_y=#na%2Fme")
    assert its.scheme == "redis+sentinel"
    assert its.hosts == (("h1", 1), ("::1", 2), ("h3", None))
    assert (its.username, its.password, its.path, its.name) == ("us/er", "p@ss", "/a b/0", "na/me")
    assert (its.options, its.query) == ({"il_x": "1", "il_y": ""}, {"ssl": "true"})
    assert its.public == "redis+sentinel://h1:1,[::1]:2,h3/a%20b/0?il_x=1&il_y=&ssl=true"
    assert repr(its) == f"<Address {its.public}>"
    assert name_of(key_of(its, "a#b")) == "a#b"


def test_without_a_host() -> None:
    its = Address.parse("redis+unix:///run/redis.sock#x")
    assert (its.hosts, its.path, its.username, its.password) == ((), "/run/redis.sock", None, None)
    assert Address.parse("redis://:@h").password == ""


text = st.text(min_size=1, max_size=8)


@given(st.none() | text, st.none() | text, st.dictionaries(text, text, max_size=2), text)
def test_a_url_is_its_parts_and_back(user: str | None, password: str | None, query: dict[str, str], name: str) -> None:
    query = {key: value for key, value in query.items() if not key.startswith("il_")}
    its = Address("x", (("h", 1),), username=user, password=password, path="/p q", query=query, name=name)
    again = Address.parse(its.url(name))
    assert again == its
    assert hash(again) == hash(its)
    assert again.without_name() != its
    assert again.without_name().url(name) == its.url(name)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:SECRET@h#x",
        "redis://SECRET@h#x",
        "redis://u:SECRET@h/0#x",
        "redis://h/0?password=SECRET#x",
        "postgresql://u@h/db?sslpassword=SECRET&a=b#x",
        "redis://u:SE%2FCRET-SECRET@h,g:7/0?db=1#x",
    ],
)
def test_nothing_shows_credentials(url: str) -> None:
    its = Address.parse(url)
    assert its.has_credentials
    for shown in (its.public, repr(its), public(url), key_of(its, its.name)):
        assert "SECRET" not in shown
    assert "SECRET" in its.url("x")
    with pytest.raises(TypeError, match="credentials"):
        pickle.dumps(its)
    assert public(url).endswith("#x")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:SECRET/x@h#x",
        "redis://u:1SECRET#x@h#x",
        "redis://u:SECRET?x@h#x",
        "redis://u:12/SECRET@h#x",
        "redis://u:12?SECRET@h#x",
        "redis://u:S@h:SECRET#x",
        "redis://u:S@h:99999?SECRET#x",
        "redis://u:S@:6379#SECRET",
        "redis://[::1#SECRET",
        "redis://h?il_a=SECRET&il_a=SECRET#x",
    ],
)
@pytest.mark.parametrize("parse", [Address.parse, Lock], ids=["Address", "Lock"])
def test_not_even_those_that_cannot_be_read(url: str, parse: Callable[[str], Any]) -> None:
    with pytest.raises((ValueError, UnsupportedError)) as caught:
        parse(url)
    assert "SECRET" not in str(caught.value)


def test_places_without_a_server_show_none_either() -> None:
    for url in ("file://u:SECRET@h/x#a", "marker://u:SECRET@h/x#a", "memory://u:SECRET@h?a=b#x", "file://u:SECRET@h"):
        with pytest.raises(ValueError, match="://") as caught:
            Lock(url)
        assert "SECRET" not in str(caught.value)
    for lock in (Lock("memory://u:SECRET@h#a"), RWLock("memory://u:SECRET@h#b"), Semaphore("memory://u:SECRET@h#c", 1)):
        assert "SECRET" not in repr(lock) + lock.resource
    assert "SECRET" not in repr(AsyncLock("memory://u:SECRET@h#a"))
