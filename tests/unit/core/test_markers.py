"""The JSON of every marker, as versions before this one wrote it and as it is read."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duplexd.core import markers
from duplexd.core.delay_markers import OfMark
from duplexd.core.marker_fields import pack_map, unpack_map
from duplexd.core.markers import (
    KINDS,
    Abandon,
    Agreed,
    Attach,
    Close,
    Commit,
    Copied,
    Copy,
    CutAt,
    Detach,
    Differ,
    Drilled,
    Equal,
    Fail,
    Grade,
    Grow,
    Horizon,
    MakeCut,
    Mark,
    Missed,
    NewVolume,
    Onward,
    Open,
    Reader,
    Ready,
    Regions,
    Remove,
    Resync,
    Rollback,
    RolledBack,
    Same,
    Scrubbed,
    Settled,
    Stood,
    Swap,
    Unread,
    Void,
    encode,
    unpack,
)
from duplexd.core.synced import Synced
from tests.unit.core.ledgers import GRAIN, SIZE, changed, packed

if TYPE_CHECKING:
    from duplexd.core.change_map import ChangeMap
    from duplexd.core.markers import Marker
    from duplexd.json_object import Json

# Grains 0 and 3 of a volume of 1 MiB, as an earlier version wrote them
MAP = "eAFLSc41FGAAAQjJCGYzMHBC6VFqNARGQ2DkhQAAYkIBkA=="

# Every kind with every field, in the order in which the fields have always been written
WRITTEN: list[tuple[Marker, Json]] = [
    (
        Open("boot-1", 7, True),
        {"m": "open", "boot": "boot-1", "version": 1, "ahead": 7, "lost": True},
    ),
    (Close(), {"m": "close"}),
    (NewVolume(3, "data", 4096), {"m": "volume", "id": 3, "name": "data", "size": 4096}),
    (Remove(3), {"m": "remove", "id": 3}),
    (Attach([1, 2]), {"m": "attach", "volumes": [1, 2]}),
    (
        Copy({1: changed(0, 3)}, "first copy"),
        {"m": "copy", "volumes": {"1": packed(0, 3)}, "reason": "first copy"},
    ),
    (
        Copied(1, [(0, 65536), (196608, 65536)]),
        {"m": "copied", "id": 1, "runs": [[0, 65536], [196608, 65536]]},
    ),
    (
        MakeCut("c1", "nightly", [1, 2], "db", ["alpha", "beta"]),
        {
            "m": "cut",
            "id": "c1",
            "tag": "nightly",
            "volumes": [1, 2],
            "group": "db",
            "members": ["alpha", "beta"],
        },
    ),
    (Stood("c1"), {"m": "stood", "cut": "c1"}),
    (Ready("c1"), {"m": "ready", "cut": "c1"}),
    (Agreed("c1"), {"m": "agreed", "cut": "c1"}),
    (Void("c1"), {"m": "void", "cut": "c1"}),
    (
        Fail("f1", 77, [1, 2], [1], [1], "/b/data.img: I/O error", {2: changed(0, 3)}),
        {
            "m": "fail",
            "id": "f1",
            "at": 77,
            "volumes": [1, 2],
            "failed": [1],
            "unusable": [1],
            "error": "/b/data.img: I/O error",
            "missed": {"2": packed(0, 3)},
        },
    ),
    (
        Grade("c1", False, 42, "record 7 is missing"),
        {
            "m": "grade",
            "cut": "c1",
            "consistent": False,
            "records": 42,
            "detail": "record 7 is missing",
        },
    ),
    (
        Resync("j1", "map", [1, 2]),
        {"m": "resync", "job": "j1", "how": "map", "volumes": [1, 2]},
    ),
    (
        Abandon("j1", [1, 2], {2: "by group freeze"}),
        {"m": "abandon", "job": "j1", "volumes": [1, 2], "reasons": {"2": "by group freeze"}},
    ),
    (
        Commit("j1", 77, 17, [1, 2]),
        {"m": "commit", "job": "j1", "at": 77, "count": 17, "volumes": [1, 2]},
    ),
    (Settled("j1", [1, 2]), {"m": "settled", "job": "j1", "volumes": [1, 2]}),
    (Equal([1, 2]), {"m": "equal", "volumes": [1, 2]}),
    (
        Missed({2: changed(0, 3)}, (2,)),
        {"m": "missed", "volumes": {"2": packed(0, 3)}, "adopted": [2]},
    ),
    (
        Regions({1: [0, 5], 2: [1]}, (2,)),
        {"m": "regions", "volumes": {"1": [0, 5], "2": [1]}, "late": [2]},
    ),
    (Detach([1, 2]), {"m": "detach", "volumes": [1, 2]}),
    (Swap([1, 2]), {"m": "swap", "volumes": [1, 2]}),
    (Synced(), {"m": "synced"}),
    (Differ(1, [(4096, 8192)]), {"m": "differ", "id": 1, "runs": [[4096, 8192]]}),
    (Same([1, 2]), {"m": "same", "volumes": [1, 2]}),
    (
        Scrubbed(1, 4096, 7, 5, "now", "before"),
        {
            "m": "scrubbed",
            "id": 1,
            "at": 4096,
            "began": 7,
            "done": 5,
            "error": "now",
            "earlier": "before",
        },
    ),
    (Reader("nightly", [1, 2]), {"m": "reader", "name": "nightly", "volumes": [1, 2]}),
    (Unread(["nightly"], [1, 2]), {"m": "unread", "names": ["nightly"], "volumes": [1, 2]}),
    (
        Rollback("r1", "c1", [1, 2], "20261129"),
        {"m": "rollback", "id": "r1", "cut": "c1", "volumes": [1, 2], "backup": "20261129"},
    ),
    (
        RolledBack("r1", [1, 2], False),
        {"m": "rolledback", "id": "r1", "volumes": [1, 2], "whole": False},
    ),
    (
        Drilled("d1", "c1", 3, 1500, [1, 2]),
        {"m": "drilled", "id": "d1", "cut": "c1", "exit": 3, "took": 1500, "volumes": [1, 2]},
    ),
    (
        Mark("m1", "stündlich", [1, 2], "db", ["alpha", "beta"]),
        {
            "m": "mark",
            "id": "m1",
            "tag": "stündlich",
            "volumes": [1, 2],
            "group": "db",
            "members": ["alpha", "beta"],
        },
    ),
    (Horizon([1, 2], 7, 9), {"m": "horizon", "volumes": [1, 2], "to": 7, "time": 9}),
    (
        CutAt("c1", "nightly", [1, 2], 7, 9, {1: changed(1)}, OfMark("m1", "db", ("a", "b"))),
        {
            "m": "cutat", "id": "c1", "tag": "nightly", "volumes": [1, 2], "at": 7, "time": 9,
            "changed": {"1": pack_map(changed(1))}, "mark": "m1", "group": "db",
            "members": ["a", "b"],
        },
    ),
    (
        Onward("c1", "nightly", [1, 2], 7, 9, OfMark("m1", "db", ("alpha", "beta"))),
        {
            "m": "onward", "id": "c1", "tag": "nightly", "volumes": [1, 2], "at": 7, "time": 9,
            "mark": "m1", "group": "db", "members": ["alpha", "beta"],
        },
    ),
    (
        Grow({1: 1 << 31, 2: 8192}, done=True),
        {"m": "grow", "volumes": {"1": 1 << 31, "2": 8192}, "done": True},
    ),
]  # fmt: skip

# What older versions left out, or is left out where there is none: the marker that it is
LEFT_OUT: list[tuple[Json, Marker]] = [
    (
        {"m": "cutat", "id": "c", "tag": "", "volumes": [1], "at": 7, "time": 9, "changed": {}},
        CutAt("c", "", [1], 7, 9, {}),
    ),
    (
        {"m": "onward", "id": "c", "tag": "", "volumes": [1], "at": 7, "time": 9},
        Onward("c", "", [1], 7, 9),
    ),
    (
        {"m": "onward", "id": "c", "tag": "", "volumes": [1], "at": 7, "time": 9, "mark": "m"},
        Onward("c", "", [1], 7, 9, OfMark("m")),
    ),
    ({"m": "open", "boot": "boot-1"}, Open("boot-1")),
    (
        {"m": "cut", "id": "c1", "tag": "", "volumes": [1]},
        MakeCut("c1", "", [1], group="", members=[]),
    ),
    (
        {
            "m": "fail", "id": "f1", "at": 7, "volumes": [1], "unusable": [], "failed": [1],
            "missed": {},
        },
        Fail("f1", 7, [1], [1], [], "", {}),
    ),
    (
        {"m": "rollback", "id": "r1", "cut": "c1", "volumes": [1, 2]},
        Rollback("r1", "c1", [1, 2], ""),
    ),
    ({"m": "abandon", "job": "j", "volumes": [1]}, Abandon("j", [1], {})),
    ({"m": "mark", "id": "m1", "tag": "", "volumes": [1]}, Mark("m1", "", [1], "", [])),
]  # fmt: skip


def kind(value: object) -> str:
    return type(value).__name__ if not isinstance(value, dict) else ""


@pytest.mark.parametrize(("marker", "fields"), WRITTEN, ids=kind)
def test_a_marker_is_written_as_it_always_was(marker: Marker, fields: Json) -> None:
    assert encode(marker) == json.dumps(fields, separators=(",", ":")).encode()


@pytest.mark.parametrize(("marker", "fields"), WRITTEN, ids=kind)
def test_a_marker_is_read_as_it_was_written(marker: Marker, fields: Json) -> None:
    found = unpack(json.loads(json.dumps(fields)))
    assert (type(found), found) == (type(marker), marker)


@pytest.mark.parametrize(("fields", "marker"), LEFT_OUT, ids=kind)
def test_what_older_versions_left_out_has_its_default(fields: Json, marker: Marker) -> None:
    assert unpack(fields) == marker


@pytest.mark.parametrize(
    ("marker", "left_out"),
    [
        (MakeCut("c1", "", [1]), {"group", "members"}),
        (Mark("m1", "", [1]), {"group", "members"}),
        (Abandon("j", [1], {}), {"reasons"}),
        (Open("boot"), {"ahead", "lost"}),
    ],
    ids=["cut of one controller", "mark of one controller", "abandon", "open"],
)
def test_what_says_nothing_is_left_out(marker: Marker, left_out: set[str]) -> None:
    whole = next(fields for other, fields in WRITTEN if type(other) is type(marker))
    assert set(marker.pack()) == set(whole) - left_out


def test_regions_without_a_primary_that_may_be_written_late_are_as_they_were_before() -> None:
    fields = {"m": "regions", "volumes": {"1": [0]}}
    assert Regions({1: [0]}).pack() == fields
    assert unpack(fields) == Regions({1: [0]})


def test_every_kind_is_in_the_table_of_this_test() -> None:
    assert [fields["m"] for _, fields in WRITTEN] == list(KINDS)
    assert [type(marker) for marker, _ in WRITTEN] == list(KINDS.values())


def test_a_map_that_an_earlier_version_wrote_is_read() -> None:
    assert unpack_map(MAP) == changed(0, 3)
    assert unpack({"m": "missed", "volumes": {"1": MAP}}) == Missed({1: changed(0, 3)})


def documented() -> dict[str, list[str]]:
    """The kinds and fields of the docstring's table, by its columns."""
    lines = str(markers.__doc__).splitlines()
    head = next(line for line in lines if line.split()[:2] == ["m", "fields"])
    fields_at, says_at = head.index("fields"), head.index("meaning")
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index(head) + 1 :]:
        if not line.startswith("    "):
            break
        name = line[:fields_at].strip() or name
        found[name] = found.get(name, "") + line[fields_at:says_at]
    types = re.compile(r"\{[^}]*\}")
    return {name: re.findall(r"\w+", types.sub("", fields)) for name, fields in found.items()}


def test_the_docstring_lists_exactly_the_kinds_and_their_fields() -> None:
    written = {fields["m"]: [name for name in fields if name != "m"] for _, fields in WRITTEN}
    assert documented() == written


# Anything that may be in a marker

numbers = st.integers(1, 4096)
places = st.integers(1, 1 << 62)
texts = st.text(max_size=20)
lists = st.lists(numbers, max_size=4)
maps: st.SearchStrategy[ChangeMap] = st.lists(st.integers(0, SIZE // GRAIN - 1), max_size=4).map(
    lambda grains: changed(*grains)
)
maps_by_volume = st.dictionaries(numbers, maps, max_size=3)
runs = st.lists(st.tuples(st.integers(0, 1 << 60), st.integers(1, 1 << 60)), max_size=4)
named = st.sampled_from([Stood, Ready, Agreed, Void])
listed = st.sampled_from([Attach, Equal, Detach])
of_marks = st.builds(
    OfMark, st.text(min_size=1), texts, st.lists(texts, min_size=1, max_size=3).map(tuple)
)
any_marker: st.SearchStrategy[Marker] = st.one_of(
    st.builds(Open, texts),
    st.just(Close()),
    st.builds(NewVolume, numbers, texts, places),
    st.builds(Remove, numbers),
    st.builds(lambda make, volumes: make(volumes), listed, lists),
    st.builds(Copy, maps_by_volume, texts),
    st.builds(Copied, numbers, runs),
    st.builds(MakeCut, texts, texts, lists),
    st.builds(MakeCut, texts, texts, lists, texts, st.lists(texts, min_size=1, max_size=3)),
    st.builds(lambda make, cut: make(cut), named, texts),
    st.builds(Horizon, lists, places, places),
    st.builds(CutAt, texts, texts, lists, places, places, maps_by_volume),
    st.builds(CutAt, texts, texts, lists, places, places, maps_by_volume, of_marks),
    st.builds(Onward, texts, texts, lists, places, places, of_marks),
    st.builds(Fail, texts, places, lists, lists, lists, texts, maps_by_volume),
    st.builds(Grade, texts, st.booleans(), places, texts),
    st.builds(Resync, texts, st.sampled_from([markers.MAP, markers.JOURNAL]), lists),
    st.builds(Abandon, texts, lists, st.dictionaries(numbers, texts, max_size=3)),
    st.builds(Commit, texts, places, places, lists),
    st.builds(Settled, texts, lists),
    st.builds(Differ, numbers, runs),
    st.builds(Same, lists),
    st.builds(Scrubbed, numbers, places, places, places),
    st.builds(Grow, st.dictionaries(numbers, places, max_size=3), st.booleans()),
    st.builds(Drilled, texts, texts, st.integers(0, 255), places, lists),
    st.builds(Missed, maps_by_volume, lists.map(tuple)),
    st.builds(
        Regions,
        st.dictionaries(numbers, st.lists(st.integers(0, 4095)), max_size=3),
        st.lists(numbers, max_size=3).map(tuple),
    ),
)


@given(any_marker)
def test_any_marker_comes_back_from_the_journal(marker: Marker) -> None:
    found = unpack(json.loads(encode(marker)))
    assert type(found) is type(marker)
    if isinstance(marker, MakeCut):
        marker = marker._replace(members=list(marker.members))
    assert found == marker


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.data())
def test_a_marker_with_any_other_field_is_read_or_refused(data: st.DataObject) -> None:
    """No error but ValueError comes out, which the ledger makes damage with its record number."""
    _, fields = data.draw(st.sampled_from(WRITTEN))
    name = data.draw(st.sampled_from(sorted(fields)))
    changed_fields = {**fields, name: data.draw(json_values)}
    try:
        found = unpack(changed_fields)
    except ValueError:
        return
    assert type(found) in KINDS.values()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"m": "fly"},
        {"m": ["attach"]},
        {"m": "attach"},
        {"m": "attach", "volumes": 1},
        {"m": "copied", "id": 1, "runs": [[]]},
        {"m": "missed", "volumes": [1]},
        {"m": "missed", "volumes": {"one": MAP}},
        {"m": "missed", "volumes": {"1": "rubbish"}},
        {"m": "missed", "volumes": {"1": MAP[:-8]}},
        {"m": "remove", "id": float("inf")},
    ],
    ids=str,
)
def test_anything_else_is_refused(fields: Json) -> None:
    with pytest.raises(ValueError, match="not a marker"):
        unpack(fields)
