from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from duplexd.daemon import announce
from duplexd.daemon.announce import summary

if TYPE_CHECKING:
    from duplexd.json_object import Json


def status(*volumes: Json, failed: str | None = None) -> Json:
    return {"controller": {"failed": failed}, "volumes": list(volumes)}


def volume(name: str, **fields: object) -> Json:
    return {"name": name, "state": "DUPLEX", "reason": None, "served": True, "error": "", **fields}


def test_what_is_well_is_a_count() -> None:
    by_command = volume("b", state="SUSPENDED", reason="by command")
    assert summary(status(volume("a"), by_command)) == "serving 2 volumes"
    assert summary(status()) == "serving 0 volumes"


def test_what_is_not_served_is_named_with_its_reason() -> None:
    found = summary(status(volume("a"), volume("vol3", served=False, error="p.img is missing")))
    assert found == "serving 1 of 2 volumes; vol3: not served: p.img is missing"


def test_a_lost_mirror_is_named_after_it() -> None:
    reason = {"state": "SUSPENDED", "reason": "by secondary error"}
    gone = volume("a", **reason, secondary={"error": "s.img is missing"})
    back = volume("b", **reason, secondary={"error": ""})
    assert summary(status(gone, back, volume("c", served=False, error="gone"))) == (
        "serving 2 of 3 volumes; c: not served: gone;"
        " a: secondary: s.img is missing; b: suspended by secondary error"
    )


def test_a_line_has_room_for_some_only() -> None:
    lost = [volume(f"v{number}", served=False, error="gone") for number in range(5)]
    found = summary(status(*lost))
    shown = "v0: not served: gone; v1: not served: gone; v2: not served: gone"
    assert found == f"serving 0 of 5 volumes; {shown}; and 2 more"


def test_a_failed_controller_serves_nothing_that_counts() -> None:
    found = summary(status(volume("a"), failed="the journal cannot be synced"))
    assert found == "failed, refusing changes: the journal cannot be synced"


@pytest.mark.parametrize(
    ("event", "level"),
    [
        ({"event": "suspended", "reason": "by command"}, "info"),
        ({"event": "suspended", "reason": "by secondary error"}, "warning"),
        ({"event": "volume-not-served"}, "error"),
        ({"event": "secondary-left", "error": None}, "info"),
        ({"event": "secondary-left", "error": "s.img: Input/output error"}, "warning"),
        ({"event": "swapped"}, "warning"),
        ({"event": "duplex"}, "info"),
    ],
)
def test_what_costs_a_volume_something_is_found_by_its_level(event: Json, level: str) -> None:
    assert announce.level(event) == level
