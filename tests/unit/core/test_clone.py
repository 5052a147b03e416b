"""Names of clones."""

from __future__ import annotations

import pytest

from duplexd.core.clone import parse


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("data@latest+test", ("data", "latest", "test")),
        ("data@a+b@c+test", ("data", "a+b@c", "test")),
        ("data@latest", None),
        ("data+test", None),
        ("data@latest+", None),
        ("data@+test", None),
        ("data@latest+te st", None),
    ],
)
def test_the_last_plus_begins_the_name_of_a_clone(
    name: str, found: tuple[str, str, str] | None
) -> None:
    parsed = parse(name)
    assert (parsed and (*parsed.of, parsed.clone)) == found
