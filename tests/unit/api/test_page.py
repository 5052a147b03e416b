"""The page: what it shows, that nobody can put anything else onto it, and that it is bounded."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from duplexd.api.last_hour import LastHour, Line
from duplexd.api.page import CUTS_MAX, VOLUMES_MAX, Glance, page
from duplexd.api.page_source import PageSource
from duplexd.api.page_style import STYLE
from duplexd.api.plots import HEIGHT, POINTS_MAX, WIDTH, plot, thinned
from duplexd.core.findings import Finding
from duplexd.nbd import constants as c
from duplexd.nbd_server.traffic import Traffic
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duplexd.json_object import Json

NAN = math.nan
HOSTILE = '"><script src=x></script><b onload="a\'b">&amp;\x1b[31m\u202e'
CUT = {"id": "c0ffee", "verdict": "consistent", "time": 1000.0, "tag": "", "why": None}


class Seen(HTMLParser):
    """Elements with their attributes, and text, as a browser reads them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


async def seen(
    names: Sequence[str] = ("data",),
    findings: Sequence[Finding] = (),
    cuts: Sequence[Json] = (),
    hour: dict[str, tuple[Line, Line]] | None = None,
    **changed: object,
) -> Seen:
    """The page of these volumes; `changed` in the status of the first."""
    status = FakeController(names, {"db": list(names)}).status()
    status["volumes"][0].update(changed)
    return Seen(page(Glance(status, list(findings), list(cuts), hour or {}, 1_000.0 + 7_200)))


async def test_it_says_the_state_of_each_volume_and_group() -> None:
    document = await seen(["data", "wal"], state="SUSPENDED", reason="by command")
    assert "SUSPENDED by command" in document.text
    for name in ("data", "wal", "db"):
        assert name in document.text
    assert "All is well." in document.text


async def test_it_says_what_is_not_well_worst_first() -> None:
    findings = [
        Finding("cut-too-old", "wal", "no consistent cut for 3 days"),
        Finding("volume-not-served", "data", "the image is missing"),
    ]
    document = await seen(["log", "data", "wal"], findings)
    assert "All is well." not in document.text
    assert document.text.index("ERROR: data") < document.text.index("WARNING: wal")
    titles = document.text.partition("Volumes")[2]
    assert titles.index("data") < titles.index("log")


async def test_a_state_is_green_only_if_nothing_is_wrong_with_the_volume() -> None:
    findings = [Finding("legs-differ", "data", "in 1 place"), Finding("cut-too-old", "wal", "old")]
    document = await seen(["data", "wal", "log"], findings)
    marked = [attributes.get("class") for tag, attributes in document.elements if tag == "b"]
    states = [one for one in marked if one is not None]
    assert states == ["error", "warning", "good"]


async def test_a_volume_has_its_last_drill() -> None:
    assert "last drill: none" in (await seen(["data"])).text
    drill = {"time": 1_000.0, "exit_code": 3}
    failed = (await seen(["data"], last_drill=drill | {"outcome": "failed"})).text
    assert "last drill: failed 2 h ago" in failed
    passed = await seen(["data"], last_drill=drill | {"outcome": "passed"})
    assert "last drill: passed 2 h ago" in passed.text
    assert ("span", {"class": "warning"}) not in passed.elements


async def test_a_cut_has_its_verdict_and_age() -> None:
    cuts = [
        {**CUT, "volumes": ["data"], "tag": "first"},
        {**CUT, "volumes": [], "verdict": "void", "tag": "second", "why": "hold lost"},
        {**CUT, "volumes": ["wal"], "verdict": None},
    ]
    text = (await seen(cuts=cuts)).text
    assert text.index("in doubt 2 h ago: c0ffee: wal") < text.index("void 2 h ago: second")
    assert "consistent 2 h ago: first: data" in text
    assert "(hold lost)" in text


@pytest.mark.parametrize("where", ["name", "reason", "error", "cut", "finding"])
async def test_whatever_is_given_to_it_is_text(where: str) -> None:
    given: dict[str, object] = {
        "name": {"names": [HOSTILE]},
        "reason": {"reason": HOSTILE},
        "error": {"served": False, "error": HOSTILE},
        "cut": {"cuts": [{**CUT, "tag": HOSTILE, "volumes": [HOSTILE], "why": HOSTILE}]},
        "finding": {"findings": [Finding("no-room", HOSTILE, HOSTILE)]},
    }
    plain, document = await seen(), await seen(**given[where])  # type: ignore[arg-type]
    assert "<script src=x>" in document.text  # as text
    assert {tag for tag, _ in document.elements} <= {tag for tag, _ in plain.elements} | {"span"}
    for _, attributes in document.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert "\x1b" not in document.text
    assert "\u202e" not in document.text


async def test_it_asks_for_nothing_but_its_style_sheet() -> None:
    line = Line([1.0, 2.0], [0.1, 0.2])
    document = await seen(hour={"data": (line, line)})
    asked = [
        value
        for _, attributes in document.elements
        for name, value in attributes.items()
        if name in {"src", "href", "action", "data"}
    ]
    assert asked == ["page.css"]
    assert not [tag for tag, _ in document.elements if tag in {"script", "style", "form", "table"}]
    assert not [1 for _, attributes in document.elements if "style" in attributes]
    assert "url(" not in STYLE
    assert "@import" not in STYLE


async def test_it_is_bounded() -> None:
    many = [f"v{number}" for number in range(VOLUMES_MAX + 5)]
    cuts = [{**CUT, "volumes": []}] * (CUTS_MAX + 3)
    findings = [Finding("no-room", name, "x") for name in many]
    document = await seen(many, findings, cuts)
    assert sum(tag == "article" for tag, _ in document.elements) == VOLUMES_MAX
    for more in ("5 more: duplexctl health", "5 more: duplexctl status", "3 more: duplexctl cuts"):
        assert more in document.text
    groups = {f"g{number}": many for number in range(VOLUMES_MAX + 2)}
    shown = Seen(
        page(Glance(FakeController(many, groups).status(), [], [{**CUT, "volumes": many}], {}, 1.0))
    )
    assert shown.text.count(many[-1]) == 0
    assert shown.text.count("and 5 more") == VOLUMES_MAX + 2  # of each group, the cut, the volumes
    assert "and 2 more: duplexctl status" in shown.text


# ------------------------------------------------------------------------ the last hour, plots


def served(reads: int, seconds: float, traffic: Traffic | None = None) -> dict[str, Traffic]:
    """After so many further READs of this time each."""
    traffic = traffic or Traffic()
    for _ in range(reads):
        traffic.seconds[c.CMD_READ].observe(seconds)
    return {"data": traffic}


def test_a_sample_is_what_came_since_the_one_before() -> None:
    hour, traffic = LastHour(3), served(5, 1.0)
    hour.note(traffic, 10.0)  # what was before is of no known time
    hour.note(served(20, 0.5, traffic["data"]), 10.0)
    hour.note(traffic, 10.0)
    found = hour.of("data")
    assert found is not None
    reads, writes = found
    assert reads.rate[-2:] == [2.0, 0.0]
    assert reads.seconds[-2] == 0.5
    assert math.isnan(reads.seconds[-1])  # of no request
    assert math.isnan(reads.rate[0])
    assert writes.rate[-2:] == [0.0, 0.0]
    assert hour.of("wal") is None


def test_the_oldest_samples_go() -> None:
    hour, traffic = LastHour(2), served(0, 0.0)
    for reads in (0, 10, 20, 30):
        hour.note(served(reads, 0.1, traffic["data"]), 10.0)
    found = hour.of("data")
    assert found is not None
    assert found[0].rate == [2.0, 3.0]


def test_a_plot_is_scaled_to_its_peak_and_interrupted_where_there_is_nothing() -> None:
    drawn = plot("rate", (("read", [0.0, 10.0, NAN, 5.0]), ("write", [NAN] * 4)))
    top, bottom, middle = 1, HEIGHT - 1, HEIGHT // 2
    third = WIDTH // 3
    path = f"M0 {bottom}h0L{third} {top}M{WIDTH} {middle}h0"
    assert f'<path class="read" d="{path}"/>' in drawn
    assert "write" not in drawn


@pytest.mark.parametrize("values", [[], [NAN], [0.0], [0.0] * 500, [1e9] * 500])
def test_any_values_can_be_drawn(values: list[float]) -> None:
    drawn = plot("rate", (("read", values), ("write", values)))
    assert "nan" not in drawn.lower()
    assert len(drawn) < 2 * 12 * POINTS_MAX + 300


def test_no_peak_is_lost() -> None:
    values = [0.0] * 360
    values[200] = 7.0
    assert (max(thinned(values)), len(thinned(values))) == (7.0, POINTS_MAX)


# ------------------------------------------------------------------------------- its source


async def test_who_asks_often_gets_the_page_that_was_written() -> None:
    looks = 0
    controller = FakeController(["data"], {})

    def look() -> tuple[Json, list[Finding], list[Json]]:
        nonlocal looks
        looks += 1
        return controller.status(), [], []

    source = PageSource(look, dict)
    answers = await asyncio.gather(*(source.page() for _ in range(20)))
    assert looks == 1
    assert len({answer.body for answer in answers}) == 1


async def test_one_page_is_written_at_a_time_however_long_that_takes() -> None:
    looks, controller = 0, FakeController(["data"], {})

    def look() -> tuple[Json, list[Finding], list[Json]]:
        nonlocal looks
        looks += 1
        return controller.status(), [], []

    source = PageSource(look, dict, fresh_seconds=0.0)
    threads = concurrent.futures.ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(threads)
    answers_again = threading.Event()
    threads.submit(answers_again.wait)
    asked = [asyncio.ensure_future(source.page()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.append(asyncio.ensure_future(source.page()))
    await asyncio.sleep(0)
    answers_again.set()
    await asyncio.gather(*asked)
    assert looks == 1
    await source.page()
    assert looks == 2


async def test_it_forbids_the_browser_everything_but_its_style_sheet() -> None:
    controller = FakeController(["data"], {})
    source = PageSource(lambda: (controller.status(), [], []), dict)
    headers = dict((await source.page()).headers)
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
    assert headers["x-content-type-options"] == "nosniff"
