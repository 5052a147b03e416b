"""The page of the metrics listener, as HTML: what a person sees who opens it on a telephone.

Without scripts and without anything from elsewhere, so that it works in any browser on any network,
and so that its Content-Security-Policy can forbid everything but its style sheet. Who can reach it
is not known: whatever somebody has given (names, tags, paths, errors) goes through `text`, and
nothing on it changes anything. It shows the worst first, and at most so many volumes and cuts,
because nobody reads a thousand, and each look costs the daemon what it takes to write them.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from duplexd.api.plots import last, peak, plot
from duplexd.core.drill_record import FAILED
from duplexd.core.findings import ERROR, WARNING
from duplexd.printable import printable
from duplexd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from duplexd.api.last_hour import Line
    from duplexd.core.findings import Finding
    from duplexd.json_object import Json

    _Shown = Callable[[float], str]

VOLUMES_MAX = 50
CUTS_MAX = 20
REFRESH_SECONDS = 10
_STATES = {"DUPLEX": "good", "SIMPLEX": "plain", "SUSPENDED": "plain", "PENDING": "warning"}
_VERDICTS = {"consistent": "good", "void": "error"}


class Glance(NamedTuple):
    """All that the page is made of: the answers of the API, the findings, the last hour of each
    volume that has one (reads, writes), and when it was, seconds since 1970.
    """

    status: Json
    findings: list[Finding]
    cuts: list[Json]
    hour: dict[str, tuple[Line, Line]]
    now: float


def text(value: object) -> str:
    """Safe in HTML, within an element and within an attribute."""
    return escape(printable(str(value)))


def shown_volumes(status: Json, findings: Iterable[Finding]) -> list[Json]:
    """Those that the page has, the ones that are not well first."""
    unwell = {each.volume for each in findings}
    volumes = sorted(status["volumes"], key=lambda each: each["name"] not in unwell)
    return volumes[:VOLUMES_MAX]


def page(glance: Glance) -> str:
    """The whole document."""
    controller = glance.status["controller"]
    name = text(controller["name"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        f'<title>duplexd {name}</title><link rel="stylesheet" href="page.css"></head><body>'
        f"<header><h1>{name}</h1>{''.join(_controller(controller))}</header><main>"
        f'<section id="health"><h2>Health</h2>{"".join(_health(glance.findings))}</section>'
        f'<section id="volumes"><h2>Volumes</h2>{"".join(_volumes(glance))}</section>'
        f'<section id="groups"><h2>Groups</h2>{"".join(_groups(glance.status["groups"]))}</section>'
        f'<section id="cuts"><h2>Cuts</h2>{"".join(_cuts(glance))}</section>'
        "</main></body></html>\n"
    )


def _controller(controller: Json) -> Iterator[str]:
    journal = controller["journal"]
    size = format_size(journal["size_bytes"])
    yield f"<p>journal of {size}, at number {controller['sequence']}</p>"
    yield f"<p>duplexd {text(controller['version'])}</p>"


def _health(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield '<p class="good">All is well.</p>'
    worst_first = sorted(findings, key=lambda each: each.severity != ERROR)
    for each in worst_first[:VOLUMES_MAX]:
        name = f"{text(each.volume)}: " if each.volume else ""
        yield f'<p class="{each.severity}">{each.severity.upper()}: {name}{text(each.text)}</p>'
    yield from _more(len(findings), VOLUMES_MAX, "duplexctl health")


def _volumes(glance: Glance) -> Iterator[str]:
    for volume in shown_volumes(glance.status, glance.findings):
        yield "".join(_volume(volume, glance))
    yield from _more(len(glance.status["volumes"]), VOLUMES_MAX, "duplexctl status")


def _volume(volume: Json, glance: Glance) -> Iterator[str]:
    state, reason = volume["state"], volume["reason"]
    found = {finding.severity for finding in glance.findings if finding.volume == volume["name"]}
    colour = next((worst for worst in (ERROR, WARNING) if worst in found), _STATES.get(state))
    yield f'<article><h3>{text(volume["name"])}</h3><p><b class="{colour or "plain"}">'
    yield f"{text(state)}</b>{f' {text(reason)}' if reason else ''}, {_mode(volume)}"
    connections = volume["connections"]
    yield f"{format_size(volume['size'])}, {connections} connection{'s' * (connections != 1)}"
    yield f"{', changes held' if volume['held'] else ''}</p>"
    yield from _paragraphs(_facts(volume, glance.now))
    if (hour := glance.hour.get(volume["name"])) is not None:
        reads, writes = hour
        yield _figure("requests a second", (reads.rate, writes.rate), _rate)
        yield _figure("mean time of a request", (reads.seconds, writes.seconds), _time)
    yield "</article>"


def _mode(volume: Json) -> str:
    return f"{text(volume['mode'])}, " if volume["mode"] else ""


def _facts(volume: Json, now: float) -> Iterator[str]:
    if not volume["served"]:
        yield f'<span class="error">not served: {text(volume["error"])}</span>'
    secondary = volume["secondary"] or {}
    if cut := secondary.get("cut"):
        yield f"secondary at cut {text(cut['tag'] or cut['id'])}, {_ago(cut['time'], now)}"
    elif lag := secondary.get("lag_bytes"):
        yield f"secondary behind by {format_size(lag)}"
    if copy := volume["copy"]:
        done, total = format_size(copy["done_bytes"]), format_size(copy["total_bytes"])
        yield f"copied {done} of {total}"
    if volume["secondary"]:
        time = volume["consistent_cut_time"]
        yield f"last consistent cut: {_ago(time, now) if time else 'none known'}"
        yield _drill(volume["last_drill"], now)


def _drill(last: Json | None, now: float) -> str:
    if last is None:
        return "last drill: none"
    ended = f"{last['outcome']} {_ago(last['time'], now)}"
    failed = last["outcome"] == FAILED
    return f'last drill: <span class="warning">{ended}</span>' if failed else f"last drill: {ended}"


def _groups(groups: Sequence[Json]) -> Iterator[str]:
    yield from _paragraphs(
        f"<b>{text(group['name'])}</b> {text(group['state'])}: {_names(group['volumes'])}"
        for group in groups[:VOLUMES_MAX]
    )
    if not groups:
        yield "<p>none</p>"
    yield from _more(len(groups), VOLUMES_MAX, "duplexctl status")


def _cuts(glance: Glance) -> Iterator[str]:
    newest_first = glance.cuts[::-1]
    for cut in newest_first[:CUTS_MAX]:
        verdict = cut["verdict"] or "in doubt"
        volumes = _names(cut["volumes"]) or "no secondary at it"
        why = f" ({text(cut['why'])})" if cut["why"] else ""
        yield f'<p><b class="{_VERDICTS.get(verdict, "warning")}">{text(verdict)}</b>'
        yield f" {_ago(cut['time'], glance.now)}: {text(cut['tag'] or cut['id'])}:"
        yield f" {volumes}{why}</p>"
    if not newest_first:
        yield "<p>none</p>"
    yield from _more(len(newest_first), CUTS_MAX, "duplexctl cuts")


def _names(volumes: Sequence[str]) -> str:
    more = f" and {len(volumes) - VOLUMES_MAX} more" if len(volumes) > VOLUMES_MAX else ""
    return ", ".join(text(name) for name in volumes[:VOLUMES_MAX]) + more


def _figure(title: str, values: tuple[list[float], list[float]], shown: _Shown) -> str:
    reads, writes = values
    drawn = plot(f"{title}, last hour", (("read", reads), ("write", writes)))
    return (
        f"<figure>{drawn}<figcaption>{title}, last hour, up to {shown(peak(*values))}; now"
        f' <span class="read">read {shown(last(reads))}</span>,'
        f' <span class="write">write {shown(last(writes))}</span></figcaption></figure>'
    )


def _rate(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}/s" if value >= 10 else f"{value:.1f}/s"


def _time(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value * 1e3:,.2f} ms" if value < 1 else f"{value:,.1f} s"


def _ago(time: float, now: float) -> str:
    return f"{format_duration(now - time)} ago"


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"<p>{line}</p>"


def _more(count: int, most: int, command: str) -> Iterator[str]:
    if count > most:
        yield f"<p>and {count - most} more: <code>{command}</code></p>"
