"""The answers of commands in words, on one daemon as on a group: one text for each verb.

Void is never called otherwise, and what others wrote (a tag, a group's name) moves no cursor.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from duplexd.core.drill_record import PASSED
from duplexd.printable import joined, printable
from duplexd.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from duplexd.client import Cut, Cuts, HoldFigures, Resynced, Suspended
    from duplexd.json_object import Json

# volumes that are listed one by one; of more, those that failed are, others counted
LISTED_MAX = 20
_NAMES_MAX = 6  # in one line
_TAG_CHARACTERS_MAX = 24  # in a table
_MILLISECONDS = 1000
_HOW = {
    "journal": "resync by journal",
    "map": "resync by change map",
    "copy": "full copy",
    "already": "already DUPLEX or on its way",
    "read": "not begun, others read its cut",
}


def listed(names: Sequence[str], what: str) -> str:
    """The first names, and how many there are in all."""
    more = f" ... ({len(names)} {what})" if len(names) > _NAMES_MAX else ""
    return " ".join(names[:_NAMES_MAX]) + more


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns in plain text."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [columns, *rows]) for index in range(len(columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [columns, *rows]
    ]


# ------------------------------------------------------------------------------------------- cuts


def verdict_text(verdict: str | None) -> str:
    """`consistent`, `VOID` or `undecided`."""
    return {"void": "VOID", None: "undecided"}.get(verdict, str(verdict))


def graded_text(grades: Sequence[Json]) -> str:
    """What canaries found on the secondaries of a cut, in a word; nothing if none looked."""
    if not grades:
        return ""
    return "consistent" if all(grade["consistent"] for grade in grades) else "BROKEN"


def cut_text(cut: Json | None) -> str:
    """`cut 9f2c.. (nightly)`; a cut that is void is never shown without that word."""
    if cut is None:
        return ""
    verdict = {"consistent": "", "void": "VOID ", None: "not yet durable, "}.get(
        cut.get("verdict"), f"{cut.get('verdict')} "
    )
    tag = f" ({printable(cut['tag'])})" if cut.get("tag") else ""
    graded = graded_text([cut["canary"]] if cut.get("canary") else [])
    return f"{verdict}cut {cut['id']}{tag}" + (f", canary: {graded}" if graded else "")


def age_text(moment: float) -> str:
    """`3 h`: how long ago that was, by the clock of this machine."""
    return format_duration(time.time() - moment)


def drill_text(last: Json | None, now: float) -> str:
    """How the last drill of a volume ended; of one that failed, when one has passed."""
    if not last:
        return "none"
    ago = f"{format_duration(now - last['time'])} ago"
    if last["outcome"] == PASSED:
        return f"passed {ago}"
    passed = last.get("passed_time")
    before = f"one passed {format_duration(now - passed)} ago" if passed else "none has passed"
    return f"FAILED {ago}, with exit code {last.get('exit_code')}; {before}"


def moment_text(moment: float) -> str:
    """`2026-11-28T21:00:00Z`."""
    return clock(moment, "seconds")


def suspended_text(result: Suspended) -> str:
    """A line about the cut, one about each controller, one about how long writes waited."""
    state = "already suspended" if result.already else "suspended"
    tag = f", tag {result.tag!r}" if result.tag else ""
    names = listed(result.volumes, "volumes") or "no volumes"
    lines = [f"{state} {result.group}: {result.verdict}, cut {result.cut}{tag}: {names}"]
    lines += [f"  {name} at {sequence}" for name, sequence in result.controllers.items()]
    if result.mark:
        lines.append("  " + _mark_text(result))
    if not (result.already or result.mark):
        lines.append("  " + hold_text(result.hold))
    if result.reader:
        lines.append(
            f"  read by {printable(result.reader)}: it stays there until"
            f" `duplexctl resync {result.group} --reader {printable(result.reader)}`"
        )
    if result.left:
        lines.append(f"  NO LONGER AT THE CUT: {' '.join(result.left)}")
    if result.untold:
        lines.append(
            f"  {' and '.join(result.untold)} did not get the verdict yet:"
            f" `duplexctl settle {result.group}`"
        )
    lines += [f"  {_hook_text(run)}" for run in result.hooks]
    return joined(lines)


def _mark_text(result: Suspended) -> str:
    moment = moment_text(result.time) if result.time is not None else "an unknown time"
    earlier = (
        f", {result.earlier_s:.3f} s before the time that was asked for"
        if result.earlier_s is not None
        else ""
    )
    return f"at mark {result.mark} of {moment}{earlier}"


def _hook_text(run: Json) -> str:
    name = f"{run['hook']} of {printable(str(run['group']))}"
    said = printable(str(run["status"])) + (
        f", {printable(why)}" if (why := run.get("why")) else ""
    )
    return f"{name}: {said} ({run['seconds']:.2f} s)"


def hold_text(hold: HoldFigures) -> str:
    """How long writes waited."""
    figures = (("max", hold.seconds_max), ("p50", hold.p50_s), ("p99", hold.p99_s))
    waits = ", ".join(f"{name} {_MILLISECONDS * value:.1f} ms" for name, value in figures)
    limit = "within" if hold.within_limit else "OVER"
    return (
        f"writes waited {waits}; {hold.writes_held} were held;"
        f" {limit} the limit of {hold.hold_max_s:g} s"
    )


def settled_text(cut: Cut) -> str:
    """One line about a cut and its members."""
    states = ", ".join(
        f"{name}: {state or ('not cut' if state == '' else 'not known')}"
        for name, state in cut.states.items()
    )
    return printable(f"cut {cut.cut}: {verdict_text(cut.verdict)} ({states})")


def cuts_text(cuts: Cuts) -> str:
    """A table, newest last."""
    if not cuts.cuts:
        return "no cuts"
    columns = ["TIME", "CUT", "VERDICT", "GROUP", "TAG", "CANARY", "CONTROLLERS"]
    rows = [[*_cut_row(cut)] for cut in cuts.cuts]
    if any(cut.readers for cut in cuts.cuts):
        columns.append("READERS")
        for row, cut in zip(rows, cuts.cuts, strict=True):
            row.append(printable(", ".join(cut.readers)) or "-")
    return joined(table_text(columns, rows))


def _cut_row(cut: Cut) -> Sequence[str]:
    return (
        clock(cut.time, "seconds"),
        cut.cut,
        verdict_text(cut.verdict),
        printable(cut.group) or "-",
        _short(printable(cut.tag)) or "-",
        graded_text(list(cut.canary.values())) or "-",
        " ".join(f"{name}@{sequence}" for name, sequence in cut.controllers.items()),
    )


def _short(text: str) -> str:
    return text if len(text) <= _TAG_CHARACTERS_MAX else text[: _TAG_CHARACTERS_MAX - 3] + "..."


def group_text(group: Json) -> str:
    """`group db: SUSPENDED: consistent, cut 9f2c..: alpha:data beta:wal`."""
    verdict = ""
    if group["state"] == "SUSPENDED":
        verdict = f" {verdict_text(group['verdict'])}, cut {group['cut']}:"
    elif group["verdict"] is not None:
        verdict = f" {verdict_text(group['verdict'])}, not at one cut:"
    missing = f" (not there: {' '.join(group['missing'])})" if group.get("missing") else ""
    names = listed(group["members"], "members")
    return f"group {group['name']}: {group['state']}:{verdict} {names}{missing}"


# ---------------------------------------------------------------------------- leases, copies, legs


def released_text(lease: str, released: bool) -> str:
    """One line about a hold."""
    return f"lease {lease}: " + ("released" if released else "had ended already")


def copy_text(copy: Json | None) -> str:
    """`42 % of 1.0 GiB, 12 s left`."""
    if not copy:
        return "-"
    total = copy.get("total_bytes") or 0
    text = f"{100 * copy['done_bytes'] // total if total else 100} % of {format_size(total)}"
    eta = copy.get("eta_s")
    return text if eta is None else f"{text}, {eta:.0f} s left"


def volumes_text(count: int) -> str:
    """A number of volumes."""
    return "1 volume" if count == 1 else f"{count} volumes"


def resync_text(rows: Sequence[Json]) -> str:
    """How each volume is brought back; of many, how many by which way."""
    if len(rows) <= LISTED_MAX:
        return joined(f"{row['name']}: {_HOW.get(row['how'], row['how'])}" for row in rows)
    counts = Counter(row["how"] for row in rows)
    return joined(f"{volumes_text(count)}: {_HOW.get(how, how)}" for how, count in counts.items())


def read_still_text(result: Resynced) -> str:
    """Why nothing was started though a reader has ended."""
    names = listed([row["name"] for row in result.volumes], "volumes")
    return f"{names}: not resynced, read by {printable(', '.join(result.readers))}"


def resynced_text(rows: Sequence[Json]) -> str:
    """What became of each volume; of many, of those that failed, and how many did not."""
    if len(rows) <= LISTED_MAX:
        return joined(map(_resynced_line, rows))
    failed = [row for row in rows if row["state"] != "DUPLEX" or row.get("differs")]
    copied = sum(row.get("copied_bytes") or 0 for row in rows if row["state"] == "DUPLEX")
    count = volumes_text(len(rows) - len(failed))
    last = f"{count}: DUPLEX, {format_size(copied)} copied"
    return joined([*map(_resynced_line, failed), last])


def _resynced_line(row: Json) -> str:
    reason = f" ({row['reason']})" if row.get("reason") else ""
    copied = format_size(row.get("copied_bytes") or 0)
    differs = ", BUT THE LEGS DIFFER" if row.get("differs") else ""
    return f"{row['name']}: {row['state']}{reason}, {copied} copied{differs}"


def verified_text(rows: Sequence[Json]) -> str:
    """A line for each volume; of many, for those that are not equal, and how many are."""
    if len(rows) <= LISTED_MAX:
        return joined(map(_verified_line, rows))
    listed = [row for row in rows if not row["equal"]]
    compared = sum(row.get("compared_bytes") or 0 for row in rows if row["equal"])
    count = volumes_text(len(rows) - len(listed))
    last = f"{count}: the legs are equal ({format_size(compared)} compared)"
    return joined([*map(_verified_line, listed), last])


def _verified_line(row: Json) -> str:
    compared = format_size(row.get("compared_bytes") or 0)
    if row["equal"] is None:
        return f"{row['name']}: NOTHING COMPARED: all of it may have changed since its cut"
    if row["equal"] and (changed := row.get("changed_bytes")):
        left = f"{format_size(changed)} not, as it may have changed since the cut"
        return f"{row['name']}: the legs are equal ({compared} compared, {left})"
    if row["equal"]:
        return f"{row['name']}: the legs are equal ({compared} compared)"
    if row.get("why"):
        return f"{row['name']}: NOT EQUAL: {row['why']}"
    first = row.get("first_difference")
    return f"{row['name']}: THE LEGS DIFFER, first at byte {first} ({compared} compared)"


# ------------------------------------------------------------------------------------------ roles


def swapped_text(rows: Sequence[Json]) -> str:
    """What each volume is served from now, and what was lost for it."""
    return joined(line for row in rows for line in _swapped_lines(row))


def _swapped_lines(row: Json) -> Iterator[str]:
    done = "already: clients use" if row.get("already") else "swapped: clients use"
    yield f"{row['name']}: {done} {row['primary']}; {_other_image(row)}"
    yield from _lost_lines(row)


def _lost_lines(row: Json) -> Iterator[str]:
    lost = row.get("lost")
    if lost and lost.get("records") != 0:
        yield f"  LOST: {_lost_text(lost)}"


def _other_image(row: Json) -> str:
    state = row["state"] + _because(row)
    return f"{row['secondary']} is the secondary, {state}" if row.get("secondary") else state


def _because(row: Json) -> str:
    return f" ({row['reason']})" if row.get("reason") else ""


def _lost_text(lost: Json) -> str:
    count = f"{lost['records']} changes" if lost.get("records") else "all changes"
    last = f" to {lost['last']}" if lost.get("last") else " on"
    numbers = f" from number {lost['first']}{last}" if lost.get("first") else ""
    since = f", since {clock(at, 'seconds')}" if (at := lost.get("since")) else ""
    return f"{count}{numbers}{since}, {format_size(lost.get('bytes') or 0)}"


def would_be_lost(volumes: Sequence[Json]) -> str:
    """What a swap with --lose-changes would give up, of the volumes of a status."""
    lines = []
    for volume in volumes:
        secondary = volume.get("secondary") or {}
        if volume["state"] != "SUSPENDED" or not secondary.get("usable"):
            continue
        lost = {
            "first": (secondary.get("as_of_sequence") or 0) + 1,
            "since": secondary.get("as_of_time"),
            "bytes": volume.get("changed_bytes"),
        }
        lines.append(f"{volume['name']}: {_lost_text(lost)}")
        if (volume.get("rebuild") or {}).get("possible"):
            lines.append("  none of it has to be lost: --roll-forward brings it back")
    return joined(lines)


def would_be_adopted(volumes: Sequence[Json]) -> str:
    """The images that an adopt would take, why they are refused, and what loses nothing instead."""
    lines: list[str] = []
    for volume in volumes:
        if volume.get("served") is False:
            name = volume["name"]
            lines.append(f"{name}: {volume.get('error') or 'not served'}")
            if (volume.get("rebuild") or {}).get("possible"):
                lines.append(
                    "  changes that only the journal and the secondary have would be lost: "
                    f"`duplexctl swap {name} --roll-forward` keeps them"
                )
    return joined(lines)


def adopted_text(rows: Sequence[Json]) -> str:
    """What each volume is served from."""
    return joined(line for row in rows for line in _adopted_lines(row))


def _adopted_lines(row: Json) -> Iterator[str]:
    """Of a volume that is served only the secondary can have been taken, where it was absent."""
    name, error = row["name"], row.get("secondary_error")
    if row.get("taken") == ["secondary"]:
        yield f"{name}: adopted the secondary {row['secondary']}; {row['state']}{_because(row)}"
        yield f"  `duplexctl resync {name}` copies {row['primary']} to it"
        return
    done = "already served from" if row.get("already") else "adopted"
    other = row["state"] + _because(row) if error else _other_image(row)
    yield f"{name}: {done} {row['primary']}; {other}"
    if error:
        yield f"  its secondary cannot be used: {error}"
        yield f"  put an image there, then `duplexctl resync {name}` copies to it"
    yield from _lost_lines(row)


# ----------------------------------------------------------------------------------------- events


def event_text(event: Json, head: str = "") -> str:
    """One line about an event, with every field it has; about the first one, `head`."""
    if head:
        return printable(head)
    fields = {
        key: value
        for key, value in event.items()
        if key not in {"event", "time", "volumes"} and value is not None
    }
    if volumes := [str(name) for name in event.get("volumes") or ()]:
        more = f",... ({len(volumes)})" if len(volumes) > _NAMES_MAX else ""
        fields["volumes"] = ",".join(volumes[:_NAMES_MAX]) + more
    words = [clock(event.get("time"), "microseconds"), event["event"]]
    said = (f"{key.replace('_', ' ')} {_said(value)}" for key, value in fields.items())
    return printable(" ".join([*words, ", ".join(filter(None, said))]).strip())


def _said(value: object) -> str:
    """A value of an event for people: no braces, no quotes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        fields = ((key, each) for key, each in value.items() if each is not None)
        return ", ".join(f"{key.replace('_', ' ')} {_said(each)}" for key, each in fields)
    if isinstance(value, list):
        return "; ".join(map(_said, value)) or "none"
    return str(value)


def clock(moment: object, precision: str) -> str:
    """A time in UTC, to the second or the microsecond."""
    if not isinstance(moment, int | float):
        return str(moment or "")
    from datetime import UTC, datetime

    try:
        at = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):  # of no year that a calendar has
        return str(moment)
    return at.isoformat(timespec=precision) + "Z"
