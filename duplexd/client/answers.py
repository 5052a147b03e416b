"""What an answer must hold, whichever controller gave it.

Every answer is checked where it is received (`http.py`), by its route, before anything uses it. So
no command of a group is built of what a member made up: the id of a cut that one member names goes
into paths that others are asked for, and must be an id. What only a person reads is a text, and is
escaped where it is shown. Optional fields are those that an earlier version does not send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.client.leg_answers import REPAIRED, RESTORING, ROLES, ROLLED_BACK
from duplexd.client.shapes import (
    ShapeError,
    each,
    fields,
    flag,
    matching,
    maybe,
    number,
    one_of,
    text,
    values,
    whole,
)
from duplexd.errors import UnreachableError

if TYPE_CHECKING:
    from duplexd.client.shapes import Check
    from duplexd.json_object import Json


class Sender(Protocol):
    """Who answered: its name in the groups file, and what errors begin with."""

    name: str
    prefix: str


_BUCKETS = 1024  # more than a wait of a year has
_TEXTS = each(text)


def _bucket(value: object, where: str) -> None:
    each(whole, 2)(value, where)
    if isinstance(value, list) and value[0] >= _BUCKETS:
        raise ShapeError(where, value[0], f"a bucket below {_BUCKETS}")


CUT_ID = matching("[0-9a-f]{16}", "the id of a cut: 16 hexadecimal digits")
VERDICT = one_of("consistent", "void")
STATE = one_of("", "cut", "ready", "consistent", "void")
CANARY = fields({"consistent": flag}, {"records": whole, "detail": text})
HOLD = fields(
    {"seconds_max": number, "writes_held": whole},
    {
        "p50_s": maybe(number),
        "p99_s": maybe(number),
        "held_s": maybe(number),
        "hold_max_s": maybe(number),
        "within_limit": maybe(flag),
        "phases": maybe(values(fields({"seconds": number, "writes": whole}))),
        "volumes": each(fields({"name": text}, {"count": whole, "max_s": number, "p50_s": number})),
        "buckets": each(_bucket),
    },
)
DRILL = fields(
    {"id": CUT_ID, "cut": CUT_ID, "outcome": one_of("passed", "failed"), "time": number},
    {"exit_code": whole, "took_s": number, "passed_time": maybe(number)},
)
IMAGES = each(
    fields(
        {"name": text},
        {"id": whole, "size": whole, "primary": text, "secondary": text, "drill": maybe(DRILL)},
    )
)
JOURNAL = fields(
    {}, {"directory": text, "identity": text, "crc": maybe(whole), "chain": maybe(whole)}
)
_CUT = {
    "tag": text,
    "verdict": maybe(VERDICT),
    "group": maybe(text),
    "members": _TEXTS,
    "mark": maybe(CUT_ID),
    "canary": maybe(CANARY),
    "why": maybe(text),
}
CUT = fields({"id": CUT_ID, "sequence": whole, "time": number}, _CUT | {"state": maybe(STATE)})
_STATUS = {
    "id": CUT_ID,
    "controller": text,
    "state": STATE,
    "verdict": maybe(VERDICT),
    "sequence": whole,
    "time": number,
    "volumes": _TEXTS,
}
_STATUS_MORE = _CUT | {"kind": text, "hold": maybe(HOLD), "images": IMAGES, "readers": _TEXTS}
CUT_STATUS = fields(_STATUS, _STATUS_MORE)
POINT = fields(
    {
        "id": CUT_ID,
        "kind": one_of("cut", "mark"),
        "state": STATE,
        "verdict": maybe(VERDICT),
        "sequence": whole,
        "time": number,
        "within_reach": flag,
    },
    {"tag": text, "group": maybe(text), "members": _TEXTS, "why": maybe(text), "whole": flag},
)
_MADE = {"controller": text, "sequence": whole, "time": number, "journal": JOURNAL}
CUT_MADE = fields(_MADE)
HOOK = fields(
    {"hook": text, "group": text, "status": text, "seconds": number},
    {"output": text, "why": text, "controller": text},
)
PROOF = fields(_MADE | {"volumes": IMAGES})
STANDING = fields(
    {"cut": CUT_ID, "controller": text, "already": flag},
    {"status": maybe(fields(_STATUS, _STATUS_MORE | {"proof": maybe(PROOF)}))},
)
SUSPENDED = fields(
    {"verdict": VERDICT, "cut": CUT_ID, "controllers": values(whole), "volumes": _TEXTS},
    {
        "tag": text,
        "why": maybe(text),
        "hold": maybe(HOLD),
        "members": each(PROOF),
        "mark": maybe(CUT_ID),
        "already": flag,
        "reader": maybe(text),
        "time": maybe(number),
        "seconds": number,
        "hooks": each(HOOK),
    },
)
_LEASE = {
    "volumes": _TEXTS,
    "owner": text,
    "hold_s": number,
    "remaining_s": maybe(number),
    "fence": maybe(whole),
    "cut": maybe(CUT_ID),
    "mark": maybe(CUT_ID),
}
LEASE = fields({"id": text}, _LEASE)
# of a hold of ours: what later requests name it by, and what is said of it
HELD = fields({"id": text, "volumes": _TEXTS, "hold_s": number, "fence": whole}, _LEASE)
RELEASED = fields({"released": flag}, {"lease": maybe(text)})
CONTROLLER = fields(
    {
        "name": text,
        "sequence": whole,
        "journal": fields(
            {"used_bytes": whole, "size_bytes": whole, "oldest_sequence": whole},
            {
                "waiting_s": number,
                "pinned_bytes": maybe(whole),
                "no_room_s": number,
                "needed_by": _TEXTS,
            },
        ),
    },
    {
        "failed": maybe(text),
        "refused": maybe(text),
        "starting": maybe(fields({"text": text})),
        "version": maybe(text),
        "group_protocol": maybe(whole),
        "hold_max_s": maybe(number),
        "nbd": _TEXTS,
    },
)
SECONDARY = fields(
    {},
    {
        "usable": flag,
        "as_of_sequence": maybe(whole),
        "as_of_size": maybe(whole),
        "as_of_time": maybe(number),
        "cut": maybe(CUT),
        "suspended_time": maybe(number),
        "lag_bytes": whole,
        "delay": maybe(fields({"wanted_s": number, "back_s": number, "shortened": flag})),
        "path": text,
        "error": maybe(text),
    },
)
VOLUME = fields(
    {"name": text, "state": text, "size": whole, "secondary": maybe(SECONDARY)},
    {
        "reason": maybe(text),
        "held": flag,
        "connections": whole,
        "changed_bytes": whole,
        "copy": maybe(
            fields({"done_bytes": whole, "total_bytes": whole}, {"eta_s": maybe(number)})
        ),
        "served": flag,
        "error": text,
        "failing": values(text),
        "swapped": flag,
        "primary": maybe(fields({}, {"path": text, "error": maybe(text), "repaired_bytes": whole})),
        "rebuild": maybe(fields({"possible": flag})),
        "differs": maybe(fields({"text": text})),
        "rollback": maybe(
            fields({"id": text, "cut": text, "state": text}, {"backup": maybe(text)})
        ),
        "last_drill": maybe(DRILL),
        "readers": each(fields({"name": text}, {"kind": text, "since": maybe(number)})),
    },
)
STATUS = fields(
    {
        "controller": CONTROLLER,
        "volumes": each(VOLUME),
        "groups": each(fields({"name": text, "volumes": _TEXTS}, {"state": maybe(text)})),
    },
    {
        "leases": each(LEASE),
        "cuts": each(CUT_STATUS),
    },
)
PROBLEM = fields({}, {"detail": text, "title": text, "exit_code": whole, "status": whole})
REFUSED = each(fields({"name": text}, {"error": maybe(text)}))
RESYNC = fields(
    {"volumes": each(fields({"name": text, "how": text}))},
    {"job": text, "refused": REFUSED, "readers": _TEXTS},
)
_COPIED = fields(
    {"name": text, "state": text},
    {"reason": maybe(text), "error": maybe(text), "copied_bytes": whole, "differs": maybe(text)},
)
_COPYING = fields(
    {"name": text, "state": text, "done_bytes": whole, "total_bytes": whole},
    {"eta_s": maybe(number)},
)
VERIFIED = fields(
    {
        "volumes": each(
            fields(
                {"name": text, "equal": maybe(flag)},
                {"compared_bytes": whole, "first_difference": maybe(whole), "why": maybe(text)},
            )
        )
    }
)

# By method and path: "*" is one segment. The lines of a stream are by their `event`, too.
WELLNESS = fields(
    {
        "controller": text,
        "well": flag,
        "volumes": whole,
        "findings": each(
            fields(
                {
                    "kind": text,
                    "severity": one_of("error", "warning"),
                    "volume": text,
                    "text": text,
                },
                {"since": maybe(number)},
            )
        ),
    }
)
_POINT = fields({"sequence": whole, "tag": text}, {"cut": maybe(CUT_ID), "time": maybe(number)})
CHANGES = fields(
    {
        "volumes": each(
            fields(
                {
                    "name": text,
                    "size": whole,
                    "grain_bytes": whole,
                    "since": _POINT,
                    "until": _POINT,
                    "changed_bytes": whole,
                    "exact": flag,
                    "why": _TEXTS,
                    "extents": each(fields({"offset": whole, "length": whole})),
                    "next_offset": maybe(whole),
                }
            )
        )
    }
)
_CLONE = fields(
    {"name": text, "volume": text, "export": text, "cut": CUT_ID, "size": whole},
    {
        "limit_bytes": whole,
        "used_bytes": whole,
        "connections": whole,
        "since": number,
        "first_fault": text,
    },
)
_LAST_RESTART = fields(
    {
        "id": text,
        "time": number,
        "pause_s": number,
        "clients_kept": whole,
        "clients_lost": whole,
        "previous_version": text,
    },
    {"failed": maybe(text)},
)
ANSWERS: dict[tuple[str, str], Check] = {
    ("GET", "/healthz"): fields({}, {"controller": maybe(text)}),
    ("GET", "/readyz"): fields({}),
    ("GET", "/v1/status"): STATUS,
    ("GET", "/v1/cuts"): fields({"cuts": each(CUT_STATUS)}),
    ("GET", "/v1/points"): fields({"points": each(POINT)}),
    ("POST", "/v1/marks"): CUT_STATUS,
    ("GET", "/v1/changes"): CHANGES,
    ("GET", "/v1/cuts/*"): CUT_STATUS,
    ("POST", "/v1/cuts/*"): CUT_MADE,
    ("POST", "/v1/cuts/*/open"): CUT_STATUS,
    ("POST", "/v1/cuts/*/stand"): STANDING,
    ("POST", "/v1/cuts/*/abort"): CUT_STATUS,
    ("POST", "/v1/cuts/*/agree"): CUT_STATUS,
    ("POST", "/v1/cuts/*/refuse"): CUT_STATUS,
    ("POST", "/v1/cuts/*/grade"): CUT_STATUS,
    ("POST", "/v1/cuts/*/release"): RELEASED,
    ("POST", "/v1/leases/*/renew"): HELD,
    ("DELETE", "/v1/leases/*"): RELEASED,
    ("POST", "/v1/suspend"): SUSPENDED,
    ("POST", "/v1/resync"): RESYNC,
    ("POST", "/v1/readers"): fields({"reader": text, "volumes": _TEXTS}),
    ("POST", "/v1/readers/release"): fields({"reader": text, "volumes": _TEXTS}),
    ("GET", "/v1/clones"): fields({"clones": each(_CLONE)}),
    ("POST", "/v1/clones"): fields({"name": text, "cut": CUT_ID, "volumes": each(_CLONE)}),
    ("POST", "/v1/drills"): fields({"id": CUT_ID, "cut": CUT_ID, "volumes": _TEXTS}),
    ("POST", "/v1/clones/drop"): fields({"name": text, "volumes": _TEXTS}),
    ("POST", "/v1/verify"): VERIFIED,
    ("POST", "/v1/swap"): ROLES,
    ("POST", "/v1/adopt"): ROLES,
    ("POST", "/v1/repair"): REPAIRED,
    ("POST", "/v1/rollback"): ROLLED_BACK,
    ("POST", "/v1/restore"): RESTORING,
    ("POST", "/v1/reload"): fields({"applied": flag, "changes": _TEXTS}),
    ("POST", "/v1/restart"): fields(
        {"id": text, "version": text, "previous_version": text, "program": text}
    ),
    ("GET", "/v1/restart"): fields({"program": text, "last": maybe(_LAST_RESTART)}),
    ("GET", "/v1/health"): WELLNESS,
}
LINES: dict[tuple[str, str], dict[str, Check]] = {
    ("POST", "/v1/quiesce"): {
        "held": fields({"lease": HELD}),
        "holding": fields({"remaining_s": number}),
        "ended": fields({"reason": text, "verdict": VERDICT}),
    },
    ("POST", "/v1/suspend"): {"cut": fields({"cut": CUT_ID}), "done": SUSPENDED},
    ("POST", "/v1/resync"): {
        "started": RESYNC,
        "progress": fields({"volumes": each(_COPYING)}),
        "done": fields(
            {"volumes": each(_COPIED)}, {"ok": flag, "refused": REFUSED, "readers": _TEXTS}
        ),
    },
    ("POST", "/v1/clones"): {
        "made": fields({"name": text, "cut": CUT_ID, "volumes": each(_CLONE)}),
        "ended": fields({"reason": text}),
    },
    ("POST", "/v1/verify"): {
        "progress": fields({"name": text, "done_bytes": whole, "total_bytes": whole}),
        "done": VERIFIED,
    },
    ("POST", "/v1/rollback"): {
        "progress": fields({"name": text, "done_bytes": whole, "total_bytes": whole}),
        "done": ROLLED_BACK,
    },
    ("GET", "/v1/events"): {"state": fields({"status": STATUS})},
}
_LINE = fields({"event": text})
_FAILED = fields({"problem": PROBLEM})


def pattern(path: str) -> str:
    """The path of a request as the tables have it: what is named in it is a "*"."""
    parts = path.partition("?")[0].split("/")
    if parts[:2] == ["", "v1"] and parts[2:3] in (["cuts"], ["leases"]) and len(parts) > 3:
        parts[3] = "*"
    return "/".join(parts)


def check_answer(method: str, path: str, answer: Json) -> None:
    """Raises ShapeError. The answer of a route that is not in the table may be anything."""
    check = ANSWERS.get((method, pattern(path)))
    if check is not None:
        check(answer, "")


def check_line(method: str, path: str, line: Json) -> None:
    """The same of a line of a stream. An event that is not known is left to its reader."""
    _LINE(line, "")
    event = line["event"]
    by_event = LINES.get((method, pattern(path)), {})
    check = _FAILED if event == "failed" else by_event.get(event)
    if check is not None:
        check(line, "")


def check_sender(answer: Json, link: Sender) -> None:
    """Raises UnreachableError if another controller answers here: its vote is its own."""
    real = answer["controller"]
    if real != link.name:
        raise UnreachableError(
            f"{link.prefix}controllers.{link.name} of the groups file leads to a controller that"
            f" calls itself {real!r}; correct its socket or url"
        )


def check_cut(answer: Json, link: Sender, cut_id: str) -> None:
    """Raises UnreachableError if the answer is about another cut than the one that was named."""
    if answer["id"] != cut_id:
        raise UnreachableError(
            f"{link.prefix}answers for cut {answer['id']!r} where cut {cut_id} was asked for;"
            " is it a duplexd of this version?"
        )
