"""What `duplexctl canary` is given to write to, and how it says what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from duplexd.canary.members import Member
from duplexd.config.groups_file import Groups, parse
from duplexd.duplexctl.canary import (
    canary_targets,
    check_reserved,
    check_unused,
    report_text,
    would_be_overwritten,
)
from duplexd.duplexctl.cli import run
from duplexd.duplexctl.texts import cut_text
from duplexd.errors import ConfigurationError, NotFoundError, WrongStateError
from duplexd.limits import CANARY_RECORDS_PER_SECOND_MAX
from duplexd.nbd.uri import NbdUri

if TYPE_CHECKING:
    from duplexd.client.http import Http

CONTROLLERS = "".join(
    f'[controllers.{name}]\nsocket = "/run/{name}.sock"\n' for name in ("alpha", "beta")
)
GROUP = '[groups.db]\nmembers = ["alpha:data", "beta:wal", "beta:more"]\n'


def groups(more: str) -> Groups:
    return parse(CONTROLLERS + GROUP + more, "groups.toml")


def test_reserved_volumes_are_written_to_and_no_others() -> None:
    found = groups('canary = ["beta:canary", "alpha:canary", "beta:second"]')
    assert canary_targets(found, "db", False, "groups.toml") == {
        "beta": ["canary", "second"],
        "alpha": ["canary"],
    }


@pytest.mark.parametrize(
    ("reserved", "wanted"),
    [
        ("", '["alpha:canary", "beta:canary"]'),
        ('canary = ["beta:spare"]', '["beta:spare", "alpha:canary"]'),
    ],
)
def test_controller_without_a_reserved_volume_is_an_error_that_says_what_to_write(
    reserved: str, wanted: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=r"groups.toml: groups.db.canary: no volume is reserved"
    ) as caught:
        canary_targets(groups(reserved), "db", False, "groups.toml")
    assert str(caught.value).endswith(f"canary = {wanted}")


def test_all_volumes_are_written_to_only_when_asked() -> None:
    found = groups('canary = ["alpha:canary", "beta:canary"]')
    assert canary_targets(found, "db", True, "groups.toml") == {
        "alpha": ["data", "canary"],
        "beta": ["wal", "more", "canary"],
    }


def test_a_controller_does_not_say_what_is_reserved() -> None:
    class Control:
        name = "beta"

    member = Member(cast("Http", Control()), NbdUri(socket="/n"), ("canary", "data"))
    check_reserved([member], {"beta": ["canary", "data"]})
    with pytest.raises(ConfigurationError, match=r"beta: data would be written to, and is not"):
        check_reserved([member], {"beta": ["canary"]})


def test_unknown_group_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        canary_targets(groups(""), "dbx", True, "groups.toml")


@pytest.mark.parametrize("rate", ["0", f"{CANARY_RECORDS_PER_SECOND_MAX + 1}", "nan"])
def test_rate_has_limits(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["canary", "db", "--rate", rate]) == 2
    assert "--rate" in capsys.readouterr().err


def test_each_report_is_one_line() -> None:
    cut = {"cut": "00ff", "records": 3, "detail": "broken: record 2"}
    assert report_text(
        {"event": "running", "volumes": ["alpha:c", "beta:c"], "records_per_second": 200.0}
    ).endswith("alpha:c, beta:c")
    assert (
        report_text({"event": "graded", "consistent": True, **cut})
        == "cut 00ff: consistent (3 records)"
    )
    assert (
        report_text({"event": "graded", "consistent": False, **cut})
        == "cut 00ff: BROKEN, now void (3 records): broken: record 2"
    )
    assert report_text({"event": "not_graded", **cut}) == "cut 00ff: not graded: broken: record 2"
    assert (
        report_text({"event": "interrupted", "detail": "gone"})
        == "interrupted: gone; the chains begin anew"
    )
    assert "the controller rejected the grade" in report_text({"event": "not_told", **cut})


@pytest.mark.parametrize(("consistent", "word"), [(True, "consistent"), (False, "BROKEN")])
def test_status_shows_the_grade_of_a_cut(consistent: bool, word: str) -> None:
    cut = {
        "id": "00ff",
        "verdict": "void",
        "tag": "t",
        "canary": {"consistent": consistent, "records": 1, "detail": ""},
    }
    assert cut_text(cut) == f"VOID cut 00ff (t), canary: {word}"
    assert cut_text({**cut, "canary": None}) == "VOID cut 00ff (t)"


def test_a_volume_that_a_client_is_connected_to_is_not_written_to() -> None:
    check_unused({"alpha:data": {"connections": 0}})
    with pytest.raises(WrongStateError, match=r"connected to alpha:data \(2\), and a canary would"):
        check_unused({"alpha:data": {"connections": 2}, "beta:wal": {"connections": 0}})


def test_what_is_asked_before_it_overwrites_names_the_volumes_and_their_sizes() -> None:
    volumes = [{"name": "alpha:data", "size": 1 << 20}]
    assert would_be_overwritten(volumes) == "alpha:data: all 1.0 MiB is lost"
