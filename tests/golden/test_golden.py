"""What every released version wrote is read by this one; and this one writes what its version
number says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.core import markers
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import VERSION
from tests.golden.make import STATE, files, unpack, write
from tests.golden.read import read

if TYPE_CHECKING:
    from duplexd.json_object import Json

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*"))


def expected(version: str) -> Json:
    found: Json = json.loads((HERE / version / "expected.json").read_text())
    return found


def test_files_of_every_version_exist() -> None:
    assert [f"v{number}" for number in range(1, VERSION + 1)] == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_directory_of_every_version_is_read_as_it_was_written(version: str) -> None:
    found = json.loads(json.dumps(read(unpack(HERE / version / "state.tar.xz"), STATE)))
    for part, content in expected(version).items():
        assert found[part] == content, part
    assert found["verdict"] == "end"


def test_the_current_version_is_written_byte_by_byte_as_before() -> None:
    """If this fails the format has changed: raise its VERSION, read the old one too, and run
    `python -m tests.golden.make`.
    """
    before, now = files(unpack(HERE / f"v{VERSION}" / "state.tar.xz")), files(write())
    saved = [
        checkpoint.unpack(content.pop("checkpoint"), "checkpoint") for content in (before, now)
    ]
    assert saved[0] == saved[1]  # compressed: equal in what it says, not always in its bytes
    assert list(before) == list(now)
    assert [name for name in before if before[name] != now[name]] == []


def test_the_files_contain_every_marker_and_every_kind() -> None:
    present = expected(f"v{VERSION}")
    # the zero lies before the checkpoint
    assert {record["kind"] for record in present["records"]} == {
        "write",
        "trim",
        "marker",
        "seal",
    }
    text = b"".join(
        content
        for name, content in files(unpack(HERE / f"v{VERSION}" / "state.tar.xz")).items()
        if name.startswith("journal")
    )
    assert [name for name in markers.KINDS if f'{{"m":"{name}"'.encode() not in text] == []
    assert present["shown"] == list(range(1, present["tail"][0] + 1))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_marker_of_every_version_is_packed_as_it_was_read(version: str) -> None:
    found = [
        record["payload"] for record in expected(version)["records"] if record["kind"] == "marker"
    ]
    assert len({fields["m"] for fields in found}) > 10
    assert [markers.unpack(fields).pack() for fields in found] == found
