"""Which Host headers a listener without certificates answers to."""

from __future__ import annotations

import pytest

from duplexd.api.own_host import is_meant

NAMES = {"alpha.example", "alpha"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "192.0.2.7:9809",
        "[::1]",
        "[2001:db8::1]:9809",
        "localhost",
        "LOCALHOST:9809",
        "localhost.",
        "alpha.example",
        "Alpha.Example:9809",
        "alpha",
        " alpha ",
        None,
    ],
)
def test_addresses_and_own_names_are_meant(host: str | None) -> None:
    assert is_meant(host, NAMES)


@pytest.mark.parametrize(
    "host",
    [
        "stranger.example",
        "stranger.example:9809",
        "127.0.0.1.stranger.example",
        "localhost.stranger.example",
        "alpha.example.stranger.example",
        "xalpha.example",
        "alpha.example@stranger.example",
        "alpha.example:9809:x",
        "stranger.example:alpha.example",
        "[alpha.example",
        "::1:stranger.example",
        "alpha.example, stranger.example",
        "",
        ":9809",
        "[]",
        "0x7f.1",
    ],
)
def test_any_other_name_may_be_a_strangers(host: str) -> None:
    assert not is_meant(host, NAMES)
