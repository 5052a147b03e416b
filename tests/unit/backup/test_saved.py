"""What lies beside the images."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from duplexd.backup import saved
from tests.unit.backup.made import manifest as made

NAMES = ["data", "alpha:data", "a.b:c", "a:b.c"]


def changed(**fields: Any) -> bytes:
    return json.dumps(made("x").json() | fields).encode()


def test_what_is_written_is_read_again() -> None:
    first = made("x", b"content", tag="täg")
    assert saved.parse(first.text().encode()) == first


@pytest.mark.parametrize("text", [b"", b"\xff", b"[]", b"null", b"{}", b"7", b"[" * 100_000])
def test_what_is_not_a_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        saved.parse(text)


@pytest.mark.parametrize("field", sorted(made("x").json().keys() - {"base", "verify"}))
def test_a_field_that_is_missing_is_refused(field: str) -> None:
    found = made("x").json()
    del found[field]
    with pytest.raises(ValueError, match=re.escape(field)):
        saved.parse(json.dumps(found).encode())


def test_one_of_a_later_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2; this program reads version 1"):
        saved.parse(changed(version=2))


@pytest.mark.parametrize(
    "fields",
    [
        {"cut_time": 1e300},
        {"cut_time": float("inf")},
        {"cut_time": float("nan")},
        {"controllers": {"alpha": float("inf")}},
    ],
)
def test_numbers_that_are_no_times_or_sequences_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        saved.parse(changed(**fields))


def test_fields_that_a_later_program_adds_are_ignored() -> None:
    assert saved.parse(changed(more=1)) == made("x")


@pytest.mark.parametrize(
    "file", ["/etc/passwd", "../x.qcow2", "a/../x.qcow2", "a/b/c.qcow2", "..", "x", "a\n.qcow2"]
)
def test_no_file_outside_of_the_backup_is_named(file: str) -> None:
    rows = [made("x").json()["volumes"][0] | {"file": file}]
    with pytest.raises(ValueError, match="not the name of an image"):
        saved.parse(changed(volumes=rows))


def test_names_of_volumes_have_files_of_their_own() -> None:
    files = [saved.image_file(name) for name in NAMES]
    assert len(set(files)) == len(NAMES)
    assert all(":" not in file for file in files)


@pytest.mark.parametrize(
    ("targets", "controllers", "same"),
    [
        (("db",), {"alpha"}, True),
        (("db", "wal"), {"alpha"}, False),
        (("db",), {"alpha", "beta"}, False),
        (("db",), {"beta"}, False),
    ],
)
def test_a_backup_of_other_targets_or_controllers_is_another(
    targets: tuple[str, ...], controllers: set[str], same: bool
) -> None:
    assert made("x").is_of(targets, frozenset(controllers)) is same


def test_the_base_of_an_incremental_one_is_read_again() -> None:
    base = saved.Base("20260101T020000Z-0123456789abcdef", "0" * 64)
    assert saved.parse(made("x", base=base).text().encode()).base == base


@pytest.mark.parametrize(
    "base",
    [
        {"id": "../x", "sha256": "0" * 64},
        {"id": "20260101T020000Z-0123456789abcdef", "sha256": ""},
        {"id": "20260101T020000Z-0123456789abcdef"},
        "x",
        [],
    ],
)
def test_a_base_that_names_no_backup_is_refused(base: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        saved.parse(changed(base=base))


def test_one_of_before_incremental_backups_is_read() -> None:
    found = made("x").json()
    del found["base"]
    assert saved.parse(json.dumps(found).encode()) == made("x")
