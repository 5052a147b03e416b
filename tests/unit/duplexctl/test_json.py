"""One JSON contract for each verb: the same of one daemon, of a group, and with a certificate."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from duplexd.api.models import cut_model as cuts
from duplexd.api.models import line_model as lines
from duplexd.api.models import status_model as models
from duplexd.client import results
from duplexd.duplexctl.cli import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

    from duplexd.json_object import Json
    from tests.support.control_plane import ControlPlane

GROUPS = '[controllers.fake]\nsocket = "c.sock"\n[groups.db]\nmembers = ["fake:data", "fake:wal"]\n'
VERBS: dict[str, tuple[list[str], type[results.Result], type[BaseModel] | None]] = {
    "status": (["status", "db"], results.Status, models.Status),
    "suspend": (["suspend", "db"], results.Suspended, cuts.Suspended),
    "resync": (["resync", "db"], results.Resynced, lines.ResyncStarted),
    "resync --wait": (["resync", "db", "--wait"], results.Resynced, lines.ResyncDone),
    "verify": (["verify", "db"], results.Verified, lines.Verified),
    "cuts": (["cuts"], results.Cuts, None),
}


class Ctl:
    """Runs a command on one daemon, and on a group of it in a groups file."""

    def __init__(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.socket = ["--socket", str(directory / "c.sock")]
        self.groups = ["--groups", str(directory / "groups.toml")]
        (directory / "groups.toml").write_text(GROUPS)
        self._capfd = capfd

    def __call__(self, where: list[str], *arguments: str) -> list[Json]:
        self._capfd.readouterr()
        assert run([*where, *arguments, "--json"]) == 0
        return [json.loads(line) for line in self._capfd.readouterr().out.splitlines()]


@pytest.fixture
def ctl(plane: ControlPlane, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Ctl:
    return Ctl(tmp_path, capfd)


def kinds(answer: Json) -> dict[str, str]:
    return {key: type(value).__name__ for key, value in answer.items()}


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_has_the_fields_of_its_result_and_all_of_the_daemons(ctl: Ctl, verb: str) -> None:
    arguments, result, model = VERBS[verb]
    (*_, answer) = ctl(ctl.socket, *arguments)
    assert {field.name for field in dataclasses.fields(result)} == set(answer) - {"event"}
    if model is not None:
        model.model_validate(answer)
        assert set(model.model_fields) - {"event"} <= set(answer)


@pytest.mark.parametrize("verb", VERBS)
def test_a_group_answers_in_the_same_shape_as_one_daemon(
    ctl: Ctl, plane: ControlPlane, verb: str
) -> None:
    arguments, _, _ = VERBS[verb]
    one = ctl(ctl.socket, *arguments)
    plane.controller.volumes = dict.fromkeys(plane.controller.volumes, "DUPLEX")
    group = ctl(ctl.groups, *arguments)
    assert [kinds(line) for line in group] == [kinds(line) for line in one]
    for mine, theirs in zip(group, one, strict=True):
        for key in ("volumes", "groups"):
            rows = [row for row in theirs.get(key, ()) if isinstance(row, dict)]
            for row, other in zip(mine.get(key, ()), rows, strict=False):
                assert set(row) == set(other), key


def test_volumes_are_called_as_in_targets(ctl: Ctl) -> None:
    (one,) = ctl(ctl.socket, "status", "db")
    (group,) = ctl(ctl.groups, "status", "db")
    assert [row["name"] for row in one["volumes"]] == ["data", "wal"]
    assert [row["name"] for row in group["volumes"]] == ["fake:data", "fake:wal"]
    assert one["groups"][0]["volumes"] == ["data", "wal"]
    assert group["groups"][0]["volumes"] == ["fake:data", "fake:wal"]
    assert one["controllers"] == group["controllers"]


def test_a_certificate_changes_no_field(
    ctl: Ctl, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (plain,) = ctl(ctl.socket, "suspend", "db")
    plane.controller.volumes = dict.fromkeys(plane.controller.volumes, "DUPLEX")
    file = tmp_path / "cut.json"
    proof = {
        "cut": "c", "controller": "fake", "sequence": 2, "time": 1.0,
        "journal": {"directory": "/state", "identity": "00", "crc": 1, "chain": 2}, "volumes": [],
    }  # fmt: skip
    suspend = plane.controller.suspend

    async def proven(
        names: list[str],
        tag: str,
        lease: str | None,
        fence: int | None,
        certificate: bool,
        existing: bool,
        reader: str,
        on_cut: Callable[[str], object],
        at: None,
    ) -> Json:
        answer = await suspend(names, tag, lease, fence)
        return answer | {"members": [proof] if certificate else []}

    monkeypatch.setattr(plane.controller, "suspend", proven)
    (certified,) = ctl(ctl.socket, "suspend", "db", "--certificate", str(file))
    assert kinds(certified) == kinds(plain)
    assert (certified["volumes"], certified["members"]) == (plain["volumes"], [proof])
    assert file.exists()


def test_a_release_says_what_was_named_and_whether_it_was_held(
    ctl: Ctl, plane: ControlPlane
) -> None:
    async def hold() -> str:
        lease = await plane.controller.quiesce(["data"], 1e6, "test")
        return str(lease.id)

    lease = plane.run(hold())
    assert ctl(ctl.socket, "release", lease) == [
        {"lease": lease, "released": True, "leases": {lease: True}}
    ]
    (again,) = ctl(ctl.socket, "release", lease)
    assert not again["released"]
    assert ctl(ctl.groups, "release", "db") == [{"lease": "db", "released": False, "leases": {}}]


def test_lines_before_the_last_of_a_resync_name_their_controller(ctl: Ctl) -> None:
    ctl(ctl.socket, "suspend", "db")
    started, *_, done = ctl(ctl.groups, "resync", "db", "--wait")
    assert (started["event"], started["controller"]) == ("started", "fake")
    assert (done["event"], done["ok"], "controller" in done) == ("done", True, False)
