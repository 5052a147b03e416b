"""Which files are read as a certificate, and which are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.errors import UsageError
from duplexd.limits import ProofLimits
from duplexd.verify_cut import document
from duplexd.verify_cut.check import check
from duplexd.verify_cut.report import REFUTED
from tests.unit.verify_cut.world import World, certificate, save

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def good(tmp_path: Path) -> dict[str, Any]:
    world = World(tmp_path)
    world.cut()
    return certificate(world.member())


def test_a_certificate_as_written_is_intact(tmp_path: Path, good: dict[str, Any]) -> None:
    found = document.read(save(tmp_path, good))
    assert (found.intact, found.members[0].name, found.members[0].volumes[0].name) == (
        True,
        "alpha",
        "data",
    )


@pytest.mark.parametrize(
    "change", [{"verdict": "void"}, {"cut": "f" * 16}, {"added": 1}, {"tag": "x"}]
)
def test_an_edited_certificate_is_refuted_and_nothing_in_it_is_believed(
    tmp_path: Path, good: dict[str, Any], change: dict[str, Any]
) -> None:
    good["certificate"] |= change
    report = check(document.read(save(tmp_path, good)), {}, {})
    assert (report.outcome, report.controllers) == (REFUTED, [])
    assert "was changed" in report.contradictions[0]


def test_a_certificate_without_check_sum_is_not_intact(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    del good["sha256"]
    assert not document.read(save(tmp_path, good)).intact


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"certificate": []}',
        '{"certificate": {"version": 1}}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="not a certificate"):
        document.read(str(path))


def test_other_versions_too_large_and_missing_files_are_refused_by_name(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    good["certificate"]["version"] = 2
    with pytest.raises(UsageError, match="of version 2"):
        document.read(save(tmp_path, good))
    with pytest.raises(UsageError, match="No such file"):
        document.read(str(tmp_path / "nothing"))
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1001)
    with pytest.raises(UsageError, match="larger than any certificate"):
        document.read(str(large), ProofLimits(certificate_bytes_max=1000))


@pytest.mark.parametrize(
    "broken", [{"controllers": []}, {"controllers": [1]}, {"controllers": None}]
)
def test_a_certificate_without_controllers_is_refused(
    tmp_path: Path, good: dict[str, Any], broken: dict[str, Any]
) -> None:
    good["certificate"] |= broken
    with pytest.raises(UsageError):
        document.read(save(tmp_path, good))


def test_a_certificate_that_names_a_controller_twice_is_refused(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    good["certificate"]["controllers"] *= 2
    with pytest.raises(UsageError):
        document.read(save(tmp_path, good))


def test_the_check_sum_does_not_depend_on_order_or_spaces(
    tmp_path: Path, good: dict[str, Any]
) -> None:
    path = tmp_path / "y"
    path.write_text(json.dumps(dict(reversed(good.items())), indent=7, sort_keys=True))
    assert document.read(str(path)).intact
