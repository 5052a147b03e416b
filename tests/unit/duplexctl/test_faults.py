"""What a status says that is not well: at the top, in the table, and a line for each fault."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from duplexd.duplexctl import faults, views
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from duplexd.json_object import Json


def status(count: int = 3) -> tuple[FakeController, Json]:
    controller = FakeController([f"v{number}" for number in range(count)], {})
    controller.refused["v0"] = "/a/v0.img: No such file or directory"
    controller.leg_errors["v0", "primary"] = "/a/v0.img: No such file or directory"
    controller.leg_errors["v1", "secondary"] = "Input/output error"
    controller.volumes["v1"] = "SUSPENDED"
    controller.swapped.add("v2")
    return controller, controller.status()


def test_a_status_without_a_fault_says_nothing_of_faults() -> None:
    volumes = FakeController(["data"], {}).status()["volumes"]
    assert (faults.summary(volumes), faults.lines(volumes)) == ("", [])


def test_a_degraded_controller_says_so_first() -> None:
    text = views.ControllerView(status()[1], None).text()
    assert text.startswith(
        "DEGRADED: 1 not served, 1 with a failed primary, 1 with a failed secondary: controller"
    )


def test_a_controller_that_takes_no_changes_says_that_instead() -> None:
    controller, _ = status()
    controller.failed = "the journal could not be synced"
    head = views.head_line(controller.status())
    assert head.startswith("FAILED: the journal could not be synced: controller")


def test_a_controller_that_refuses_changes_for_now_says_so_first() -> None:
    controller, _ = status()
    controller.refusal = "No space left on device"
    head = views.head_line(controller.status())
    assert head.startswith("REFUSING CHANGES: No space left on device: controller")


def test_a_journal_that_does_not_answer_is_said_first() -> None:
    controller, _ = status()
    controller.journal_waits_s = 12.3
    head = views.head_line(controller.status())
    assert head.startswith("CHANGES WAIT: the disk of the journal has not answered for 12 s: contr")


def test_a_volume_whose_requests_fail_says_so_at_the_top_and_below() -> None:
    controller = FakeController(["v0"], {})
    controller.failing["v0"] = dict.fromkeys(("change", "read"), "Input/output error")
    text = views.ControllerView(controller.status(), None).text()
    assert text.startswith("DEGRADED: 1 with failing requests: controller")
    assert "v0: the last change and read of a client failed: Input/output error" in text


def test_each_fault_has_one_line_with_its_reason() -> None:
    assert faults.lines(status()[1]["volumes"]) == [
        "v0: NOT SERVED: /a/v0.img: No such file or directory",
        "v1: secondary /b/v1.img: Input/output error",
        "v2: swapped: clients use /b/v2.img",
        "can be rebuilt: yes: v1",
    ]


def test_suspended_pairs_whose_changes_the_journal_dropped_are_named() -> None:
    controller, _ = status()
    controller.rebuilds = False
    controller.volumes["v2"] = "SUSPENDED"
    assert faults.lines(controller.status()["volumes"])[-2:] == [
        "can be rebuilt: no, the secondary is not usable: v1",
        "can be rebuilt: no, the journal does not reach back, or the primary was adopted since: v2",
    ]


def test_a_suspended_pair_whose_legs_differ_cannot_be_rebuilt() -> None:
    controller, _ = status()
    controller.rebuilds = False
    (volume,) = [each for each in controller.status()["volumes"] if each["name"] == "v1"]
    volume["differs"] = {"text": "the legs differ in 1 place"}
    answer = "can be rebuilt: no, its legs differ (`duplexctl repair`): v1"
    assert faults.lines([volume])[-1] == answer


def test_changes_that_wait_for_journal_room_are_said_in_the_first_line() -> None:
    shown = FakeController(["data"], {}).status()
    shown["controller"]["journal"].update(no_room_s=12.0, needed_by=["data"])
    text = views.ControllerView(shown, None).text()
    waits = "changes have waited 12 s for journal room that the secondary of data needs"
    assert text.startswith(f"CHANGES WAIT: {waits}: ")


def test_a_volume_that_is_not_served_says_so_in_place_of_its_state() -> None:
    text = views.ControllerView(status()[1], None).text()
    assert re.search(r"^v0 +1\.0 MiB +NOT SERVED ", text, re.MULTILINE)


def test_what_was_rewritten_from_the_secondary_is_said() -> None:
    found = status()[1]["volumes"]
    found[2]["primary"]["repaired_bytes"] = 8192
    assert "v2: 8.0 KiB of the primary were unreadable, and rewritten from the secondary" in (
        faults.lines(found)
    )


def test_a_path_moves_no_cursor() -> None:
    controller, _ = status()
    controller.refused["v0"] = "/a/\x1b[2J: no such file"
    assert "\x1b" not in views.ControllerView(controller.status(), None).text()


def test_of_a_thousand_suspended_pairs_the_one_with_a_fault_is_listed() -> None:
    controller = FakeController([f"v{number}" for number in range(1000)], {})
    controller.volumes = dict.fromkeys(controller.volumes, "SUSPENDED")
    controller.refused["v777"] = "another image"
    text = views.ControllerView(controller.status(), 24).text()
    assert len(text.splitlines()) < 24
    assert re.search(r"^v777 .*NOT SERVED", text, re.MULTILINE)
    assert "v777: NOT SERVED: another image" in text


def test_a_daemon_of_an_earlier_version_is_shown() -> None:
    shown = FakeController(["data"], {}).status()
    for field in ("served", "error", "failing", "swapped", "primary", "rebuild"):
        del shown["volumes"][0][field]
    del shown["controller"]["journal"]["waiting_s"]
    assert re.search(r"^data .*DUPLEX", views.ControllerView(shown, None).text(), re.MULTILINE)


def test_a_daemon_that_is_starting_says_how_far_it_is() -> None:
    shown = FakeController([], {}).status()
    shown["controller"]["starting"] = {"text": "recovering, 40 % (2 of 5 GiB)", "fraction": 0.4}
    assert views.ControllerView(shown, 24).text() == (
        "STARTING: recovering, 40 % (2 of 5 GiB): controller fake, no volume is served"
    )
