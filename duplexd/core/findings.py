"""What is not well with a controller: findings, made of its status and of what is known around it.

There were as many opinions of health as there are interfaces: a line of status, /readyz, the line
of the service manager, metrics, each with its own list of what counts. A person
who asked the wrong one was shown that all is well. So there is one function here, pure, and every
interface shows what it returns. What could not be looked at is a finding; what was not looked at
yet, for some seconds after a start, is none.

`KINDS` is the table of all kinds, with what each costs:

    error      service: clients get errors or wait, or soon will; or an image holds wrong bytes;
               or what clients write now is lost at the next start
    warning    redundancy or a backup: the next fault would be an error, or loses data

A pair that somebody suspended is well until that has lasted longer than `suspended_max`: it is what
the program is for. A first copy is not: until it is done there is one image of the volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core.drill_record import PASSED
from duplexd.limits import JOURNAL_SILENT_SECONDS_MAX
from duplexd.units import KIB, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from duplexd.json_object import Json

ERROR, WARNING = "error", "warning"
KINDS = {
    "controller-failed": ERROR,
    "changes-refused": ERROR,
    "journal-silent": ERROR,
    "changes-wait": ERROR,
    "volume-not-served": ERROR,
    "volume-not-grown": WARNING,
    "requests-fail": ERROR,
    "socket-removed": ERROR,
    "primary-error": WARNING,
    "secondary-error": WARNING,
    "legs-differ": ERROR,
    "not-compared": WARNING,
    "primary-repaired": WARNING,
    "secondary-unusable": WARNING,
    "suspended-too-long": WARNING,
    "cut-too-old": WARNING,
    "delay-shortened": WARNING,
    "mark-too-old": WARNING,
    "cut-in-doubt": WARNING,
    "drill-failed": WARNING,
    "drill-overdue": WARNING,
    "scrub-error": WARNING,
    "scrub-overdue": WARNING,
    "one-file-system": WARNING,
    "no-room": WARNING,
    "disk-silent": WARNING,
    "state-misplaced": ERROR,
}
# Errors that no restart is a remedy for; of a misplaced state it would lose what is acknowledged
NO_SERVICE_LOST = frozenset({"legs-differ", "state-misplaced"})
MARKS_MISSED_MAX, MARK_LATE_SECONDS = 3, 10.0  # of a group with `mark_every`
STATE_FREE_BYTES_MIN = 256 * KIB
IN_DOUBT_SECONDS_MAX = 60.0  # a coordinator decides within seconds; nobody does after that
_ROLES = ("primary", "secondary")
_NAMES_MAX = 6


class Finding(NamedTuple):
    """One thing that is not well. `volume` is empty where it is of the controller or of a disk;
    `since` is seconds since 1970, None if that is not known. `about`: what tells it from others of
    its kind and volume, as the text changes with time.
    """

    kind: str
    volume: str
    text: str
    since: float | None = None
    about: str = ""

    @property
    def severity(self) -> str:
        """What it costs; see `KINDS`."""
        return KINDS[self.kind]


class Expected(NamedTuple):
    """What the configuration expects of `[health]` and `[scrub]`, in seconds; None: nothing."""

    suspended_s_max: float | None = None
    cut_age_s_max: float | None = None
    scrub_every_s: float | None = None
    drill_age_s_max: float | None = None


class ImageRoom(NamedTuple):
    """One image on its file system. `device` 0: a block device, which has all of its room.
    `missing_bytes`: what it would take if all of it were written. `free_bytes`: None if the file
    system does not say.
    """

    device: int
    missing_bytes: int
    free_bytes: int | None


class Around(NamedTuple):
    """What is known of the disks: room by path, and why there is none of the others.
    `state_silent`: the same of state_dir. `state_misplaced`: whether that is not the directory that
    the daemon uses any more. `differing`: volumes whose legs the last `verify` could
    not compare, and why. `removed`: Unix sockets whose files are gone.
    """

    images: Mapping[str, ImageRoom] = {}
    silent: Mapping[str, str] = {}
    state_free_bytes: int | None = None
    differing: Mapping[str, str] = {}
    state_silent: str = ""
    state_misplaced: bool = False
    removed: Collection[str] = ()


def find(status: Json, around: Around, expected: Expected, now: float) -> list[Finding]:
    """All that is not well, errors first. `now`: seconds since 1970."""
    found = [
        *of_controller(status["controller"]),
        *(each for volume in status["volumes"] for each in _of_volume(volume, now, expected)),
        *_unmarked(status.get("groups", ()), now),
        *_in_doubt(status.get("cuts", ()), now),
        *_of_disks(status["volumes"], around),
        *_removed(around.removed),
    ]
    return sorted(found, key=lambda finding: finding.severity)


def of_controller(controller: Json) -> Iterator[Finding]:
    """Why it takes no changes; nothing if it does."""
    if failed := controller.get("failed"):
        yield Finding("controller-failed", "", f"takes no changes until a restart: {failed}")
    elif refused := controller.get("refused"):
        yield Finding("changes-refused", "", f"refuses changes for now: {refused}")
    elif (waits_s := controller["journal"].get("waiting_s") or 0.0) >= JOURNAL_SILENT_SECONDS_MAX:
        text = f"waits: the disk of the journal has not answered for {waits_s:.0f} s"
        yield Finding("journal-silent", "", text)
    elif waiting := waits_for_room(controller["journal"]):
        yield Finding("changes-wait", "", waiting)


def waits_for_room(journal: Json) -> str:
    """Why changes wait for room in the journal, once that takes long; empty if they do not."""
    waits_s = journal.get("no_room_s") or 0.0
    if waits_s < JOURNAL_SILENT_SECONDS_MAX:
        return ""
    names = journal.get("needed_by") or ()
    who = f"the secondary of {' '.join(names[:_NAMES_MAX])}" if names else "a checkpoint"
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return f"waits: changes have waited {waits_s:.0f} s for journal room that {who}{more} needs"


def _of_volume(volume: Json, now: float, expected: Expected) -> Iterator[Finding]:
    name = volume["name"]
    if not volume.get("served", True):
        yield Finding("volume-not-served", name, f"not served: {volume.get('error') or 'see log'}")
    if why := volume.get("not_grown"):
        yield Finding("volume-not-grown", name, f"smaller than its configuration says: {why}")
    for what, why in (volume.get("failing") or {}).items():
        text = f"the last {what} of a client failed: {why}"
        yield Finding("requests-fail", name, text, about=what)
    for role in _ROLES:
        yield from _of_leg(name, role, volume.get(role) or {}, str(volume.get("error") or ""))
    if volume["state"] == "PENDING" and not (volume.get("secondary") or {}).get("usable"):
        yield Finding("secondary-unusable", name, _copying(volume))
    yield from _differing(volume)
    yield from _suspended(volume, now, expected.suspended_s_max)
    yield from _shortened(volume)
    yield from _uncut(volume, now, expected.cut_age_s_max)
    yield from _undrilled(volume, now, expected.drill_age_s_max)
    yield from _unscrubbed(volume, now, expected.scrub_every_s)


def _differing(volume: Json) -> Iterator[Finding]:
    """A repair needs a pair that is DUPLEX."""
    name, differs = volume["name"], volume.get("differs")
    if differs:
        first = f"`duplexctl resync --wait {name}`, then " if volume["state"] == "SUSPENDED" else ""
        repair = f"run {first}`duplexctl repair {name}` with --from primary or secondary"
        yield Finding("legs-differ", name, f"{differs['text']}; {repair}", differs["time"])


def _of_leg(name: str, role: str, leg: Json, said: str) -> Iterator[Finding]:
    """`said`: why the volume is not served, which need not be said twice."""
    path = leg.get("path") or ""
    if (why := leg.get("error")) and why not in said:
        text = why if path in why else f"{path}: {why}"
        yield Finding(f"{role}-error", name, f"{role} {text}", leg.get("error_time"))
    if size := leg.get("repaired_bytes"):
        text = f"{role} {path}: {format_size(size)} were unreadable, and rewritten"
        yield Finding("primary-repaired", name, f"{text}; its disk may be failing", about=path)


def _copying(volume: Json) -> str:
    copy = volume.get("copy") or {}
    total = copy.get("total_bytes") or 0
    done = f"{100 * copy.get('done_bytes', 0) // total} % done" if total else "not begun"
    return f"one good image: the secondary is being copied, {done}"


def _suspended(volume: Json, now: float, most_s: float | None) -> Iterator[Finding]:
    since = (volume.get("secondary") or {}).get("suspended_time")
    if most_s is None or since is None:
        return
    if (age_s := now - since) > most_s:
        text = f"suspended for {format_duration(age_s)}, more than suspended_max"
        text = f"{text} ({format_duration(most_s)}); resync it"
        yield Finding("suspended-too-long", volume["name"], text, since + most_s)


def _shortened(volume: Json) -> Iterator[Finding]:
    delay = (volume.get("secondary") or {}).get("delay") or {}
    if delay.get("shortened"):
        back, wanted = format_duration(delay["back_s"]), format_duration(delay["wanted_s"])
        text = f"the journal holds only {back} of the delay of {wanted}; give it a larger size"
        yield Finding("delay-shortened", volume["name"], f"{text} (journal_size)")


def _uncut(volume: Json, now: float, most_s: float | None) -> Iterator[Finding]:
    if most_s is None or volume.get("secondary") is None:
        return
    last = volume.get("consistent_cut_time")
    if last is None:
        text = f"no consistent cut is known; expected one every {format_duration(most_s)}"
        yield Finding("cut-too-old", volume["name"], text)
    elif (age_s := now - last) > most_s:
        text = f"the last consistent cut is {format_duration(age_s)} old, more than cut_age_max"
        text = f"{text} ({format_duration(most_s)})"
        yield Finding("cut-too-old", volume["name"], text, last + most_s)


def _undrilled(volume: Json, now: float, most_s: float | None) -> Iterator[Finding]:
    name, last = volume["name"], volume.get("last_drill")
    if volume.get("secondary") is None:
        return
    if last is not None and last["outcome"] != PASSED:
        text = f"the last drill failed: exit code {last['exit_code']}, at cut {last['cut']}"
        yield Finding("drill-failed", name, text, last["time"])
    if most_s is None:
        return
    passed = last and last["passed_time"]
    if not passed:
        text = f"no drill has passed; expected one every {format_duration(most_s)}"
        yield Finding("drill-overdue", name, text)
    elif (age_s := now - passed) > most_s:
        text = f"the last drill that passed is {format_duration(age_s)} old, more than"
        text = f"{text} drill_age_max ({format_duration(most_s)})"
        yield Finding("drill-overdue", name, text, passed + most_s)


def _unscrubbed(volume: Json, now: float, every_s: float | None) -> Iterator[Finding]:
    """A pass takes long, and begins when it is due: it is late when the next one should begin."""
    name, scrub = volume["name"], volume.get("scrub") or {}
    if error := scrub.get("error"):
        yield Finding("scrub-error", name, f"the scrub found that {error}")
    if every_s is None or volume.get("secondary") is None:
        return
    if volume["state"] == "PENDING" and not scrub.get("done_time"):
        return  # its first copy, which counts as a pass
    if volume.get("mode") == "delayed":
        return  # it differs from its primary: only one at a cut can be compared
    # One that was never compared is late too; and none is on the day when scrubs are turned on.
    known = [scrub.get(key) or 0.0 for key in ("done_time", "wanted_time")]
    since = max(known) or scrub.get("began_time")
    if since is not None and now - since > 2 * every_s:
        text = f"not compared as a whole for {format_duration(now - since)}"
        text = f"{text}; [scrub] wants that every {format_duration(every_s)}: see its rate"
        yield Finding("scrub-overdue", name, text, since + 2 * every_s)


def _unmarked(groups: Iterable[Json], now: float) -> Iterator[Finding]:
    for group in groups:
        name, every_s, last = group["name"], group.get("mark_every_s"), group.get("last_mark_time")
        if every_s is None:
            continue
        late_s = MARKS_MISSED_MAX * every_s + MARK_LATE_SECONDS
        if last is not None and now - last <= late_s:
            continue
        age = f"its last mark is {format_duration(now - last)} old" if last else "it has no mark"
        text = f"group {name}: {age}; mark_every is {format_duration(every_s)}: see its events"
        yield Finding("mark-too-old", "", text, last and last + late_s, about=name)


def _in_doubt(cuts: Iterable[Json], now: float) -> Iterator[Finding]:
    for cut in cuts:
        if (age_s := now - cut["time"]) > IN_DOUBT_SECONDS_MAX:
            text = f"{cut.get('kind', 'cut')} {cut['id']} is in doubt for {format_duration(age_s)}"
            group = cut.get("group") or "GROUP"
            text = f"{text}: run `duplexctl settle {group}`"
            yield Finding("cut-in-doubt", "", text, about=cut["id"])


def _removed(paths: Iterable[str]) -> Iterator[Finding]:
    for path in sorted(paths):
        text = f"the Unix socket {path} was removed: no new client finds it; reload (SIGHUP)"
        yield Finding("socket-removed", "", f"{text} makes it again", about=path)


# ------------------------------------------------------------------------------------------ disks


def _of_disks(volumes: Iterable[Json], around: Around) -> Iterator[Finding]:
    for volume in volumes:
        yield from _of_one(volume, around)
        if why := around.differing.get(volume["name"]):
            yield Finding("not-compared", volume["name"], why)
    if around.state_silent:
        yield Finding("disk-silent", "", f"state_dir cannot be looked at: {around.state_silent}")
    if around.state_misplaced:
        text = "state_dir was deleted, moved or replaced, or something was mounted over it"
        yield Finding("state-misplaced", "", f"{text}: no start will find what is written now")
    free = around.state_free_bytes
    if free is not None and free < STATE_FREE_BYTES_MIN:
        text = f"the file system of state_dir has {format_size(free)} free: make room there"
        yield Finding("no-room", "", f"{text}; checkpoints use what is kept for them")
    yield from _short_of_room(around.images)


def _of_one(volume: Json, around: Around) -> Iterator[Finding]:
    """What an image is already known to have is not said again of its path."""
    legs = [(role, volume.get(role) or {}) for role in _ROLES]
    rooms = [around.images.get(leg.get("path") or "") for _, leg in legs]
    devices = [room.device for room in rooms if room is not None and room.device]
    if len(devices) > len(set(devices)):
        text = "both images lie on one file system: one disk that fails takes both"
        yield Finding("one-file-system", volume["name"], text)
    for role, leg in legs:
        if (why := around.silent.get(leg.get("path") or "")) and not leg.get("error"):
            text = f"{role} {leg['path']}: cannot be looked at: {why}"
            yield Finding("disk-silent", volume["name"], text, about=role)


def _short_of_room(images: Mapping[str, ImageRoom]) -> Iterator[Finding]:
    """Sparse images that could take more than their file system has."""
    by_device: dict[int, list[str]] = {}
    for path, room in images.items():
        if room.device:
            by_device.setdefault(room.device, []).append(path)
    for paths in by_device.values():
        missing = sum(images[path].missing_bytes for path in paths)
        rooms = [images[path].free_bytes for path in paths]
        known = [room for room in rooms if room is not None]
        if known and missing > (free := min(known)):
            more = len(paths) - 1
            others = (
                f" and {'1 more image' if more == 1 else f'{more} more images'}" if more else ""
            )
            whose = "their" if more else "its"
            yield Finding(
                "no-room",
                "",
                f"{min(paths)}{others} may grow by {format_size(missing)},"
                f" but {whose} file system has {format_size(free)} free",
                about=min(paths),
            )
