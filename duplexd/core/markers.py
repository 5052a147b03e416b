"""The journal's markers, one typed tuple each.

A marker is a record that changes the state of pairs and cuts, but no byte of a volume. It is
written as a JSON object whose field `m` names its kind. Only `pack` and `unpack` know that form, so
no field is written under one name and read under another. Maps of volumes have its number as a
decimal string for a key, as JSON has no other keys; change maps are base64 of `ChangeMap.to_bytes`.

    m         fields                                 meaning
    open      boot, version, ahead, lost             a daemon started, on this boot of the machine;
                                                     `lost`: perhaps without unflushed changes
    close                                            clean shutdown: both legs hold everything
    volume    id, name, size                         a new volume, SIMPLEX
    remove    id                                     removed from the configuration
    attach    volumes                                both images are new: DUPLEX
    copy      volumes {id: map}, reason              copy what may differ; unusable until then
    copied    id, runs                               these bytes were copied, durably
    cut       id, tag, volumes, group, members       SUSPENDED at this record; with `members`, the
                                                     controllers that must all be prepared
    mark      id, tag, volumes, group, members       a point as a cut is, nobody is suspended
    stood     cut                                    the secondaries are durable there (own cuts)
    ready     cut                                    prepared: held until opened, durable there
    agreed    cut                                    committed: every member is prepared
    void      cut                                    aborted, perhaps before it was made
    fail      id, at, volumes, failed, unusable,     SUSPENDED at record `at`, before this one,
              error, missed {id: map}                because a secondary failed
    grade     cut, consistent, records, detail       what a canary found on the secondaries
    resync    job, how, volumes                      a resync began
    abandon   job, volumes, reasons {id: reason}     it ended with the secondaries untouched
    commit    job, at, count, volumes                the staging log is complete: `count` records,
                                                     all changes up to record `at`
    settled   job, volumes                           it is applied, durably
    equal     volumes                                DUPLEX: the secondaries hold all changes
    missed    volumes {id: map}, adopted             changed without a record; `adopted`: by `adopt`
    regions   volumes {id: [number]}, late           may differ after a power cut; `late`: see there
    detach    volumes                                the secondary was removed: SIMPLEX
    swap      volumes                                the two images change roles; of a SUSPENDED
                                                     pair, changes after the cut are given up
    synced                                           see `core/synced.py`
    differ    id, runs                               the legs differ there: `core/leg_differences`
    same      volumes                                they were compared, and are equal
    scrubbed  id, at, began, done, error, earlier    how far a scrub is: `core/scrub_state.py`
    reader    name, volumes                          somebody reads their secondaries at the cut
    unread    names, volumes                         these have ended: `core/readers.py`
    rollback  id, cut, volumes[, backup]             closed: they go back to the cut
    rolledback  id, volumes, whole                   open again: `core/rollback.py`
    drilled   id, cut, exit, took, volumes           a drill of it ended: `core/drill_record.py`
    horizon   volumes, to, time                      delayed secondaries may get changes up to `to`,
                                                     of which none is later than `time`
    grow      volumes {id: size}, done               they grow: `core/growth.py`
    cutat     id, tag, volumes, at, time,            SUSPENDED at record `at`, before this one, by
              changed {id: map}[, mark, group,       command; `changed` after it; at that mark, with
              members]                               the others of a group
    onward    id, tag, volumes, at, time[, mark,     from their cut on to a new one at record `at`
              group, members]

A field that an older version did not write has a default in `unpack`. Version 1 of the journal
lacks the markers of groups, version 2 lacks `swap` and `synced`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from duplexd.core.cut_markers import Agreed, Grade, Mark, Ready, Stood, Void
from duplexd.core.delay_markers import CutAt, Horizon, Onward
from duplexd.core.difference_markers import Differ, Same, Scrubbed
from duplexd.core.drill_record import Drilled
from duplexd.core.growth import Grow
from duplexd.core.marker_fields import numbers, pack_maps, unpack_maps
from duplexd.core.reader_markers import Reader, Unread
from duplexd.core.rollback_markers import Rollback, RolledBack
from duplexd.core.synced import Synced

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from duplexd.core.change_map import ChangeMap
    from duplexd.json_object import Json

__all__ = [
    "JOURNAL", "KINDS", "MAP", "Abandon", "Agreed", "Attach", "Close", "Commit", "Copied",
    "Copy", "CutAt", "Detach", "Differ", "Drilled", "Equal", "Fail", "Grade", "Grow", "Horizon",
    "MakeCut", "Mark", "Marker", "Missed", "NewVolume", "Onward", "Open", "Reader", "Ready",
    "Regions", "Remove", "Resync", "Rollback", "RolledBack", "Same", "Scrubbed", "Settled",
    "Stood", "Swap", "Synced", "Unread", "Void", "encode", "unpack",
]  # fmt: skip

MAP, JOURNAL = "map", "journal"  # `Resync.how`


class Open(NamedTuple):
    """A daemon started on boot `boot` of the machine; `ahead`: see `identity.Known`. `lost`:
    changes that were acknowledged, but not flushed, may be gone.
    """

    boot: str
    ahead: int = 0
    lost: bool = False

    def pack(self) -> Json:
        ahead = {"ahead": self.ahead} if self.ahead else {}
        lost = {"lost": True} if self.lost else {}
        return {"m": "open", "boot": self.boot, "version": 1, **ahead, **lost}

    @classmethod
    def unpack(cls, fields: Json) -> Open:
        return cls(str(fields["boot"]), int(fields.get("ahead", 0)), bool(fields.get("lost")))


class Close(NamedTuple):
    """A clean shutdown: both legs hold everything before this record."""

    def pack(self) -> Json:
        return {"m": "close"}

    @classmethod
    def unpack(cls, _fields: Json) -> Close:
        return cls()


class NewVolume(NamedTuple):
    """A volume that is new to the journal; `size` in bytes."""

    id: int
    name: str
    size: int

    def pack(self) -> Json:
        return {"m": "volume", **self._asdict()}

    @classmethod
    def unpack(cls, fields: Json) -> NewVolume:
        return cls(int(fields["id"]), str(fields["name"]), int(fields["size"]))


class Remove(NamedTuple):
    """A volume was removed from the configuration."""

    id: int

    def pack(self) -> Json:
        return {"m": "remove", "id": self.id}

    @classmethod
    def unpack(cls, fields: Json) -> Remove:
        return cls(int(fields["id"]))


class Attach(NamedTuple):
    """Pairs whose two images are both new, hence equal."""

    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "attach", "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Attach:
        return cls(numbers(fields["volumes"]))


class Copy(NamedTuple):
    """What may differ is to be copied; the secondaries are unusable until that is done."""

    changed: Mapping[int, ChangeMap]
    reason: str

    @property
    def volumes(self) -> Sequence[int]:
        """The pairs that it moves."""
        return list(self.changed)

    def pack(self) -> Json:
        return {"m": "copy", "volumes": pack_maps(self.changed), "reason": self.reason}

    @classmethod
    def unpack(cls, fields: Json) -> Copy:
        return cls(unpack_maps(fields["volumes"]), str(fields["reason"]))


class Copied(NamedTuple):
    """These runs (offset, length) of a pair were copied, durably."""

    id: int
    runs: Sequence[tuple[int, int]]

    def pack(self) -> Json:
        return {"m": "copied", "id": self.id, "runs": [list(run) for run in self.runs]}

    @classmethod
    def unpack(cls, fields: Json) -> Copied:
        return cls(int(fields["id"]), [(int(run[0]), int(run[1])) for run in fields["runs"]])


class MakeCut(NamedTuple):
    """A cut, at this record. `members` names the controllers of a group's cut, else it is empty."""

    id: str
    tag: str
    volumes: Sequence[int]
    group: str = ""
    members: Sequence[str] = ()

    def pack(self) -> Json:
        own = {"m": "cut", "id": self.id, "tag": self.tag, "volumes": list(self.volumes)}
        if not self.members:
            return own
        return {**own, "group": self.group, "members": list(self.members)}

    @classmethod
    def unpack(cls, fields: Json) -> MakeCut:
        own = cls(str(fields["id"]), str(fields["tag"]), numbers(fields["volumes"]))
        members = [str(member) for member in fields.get("members", ())]
        return own._replace(group=str(fields.get("group", "")), members=members)


class Fail(NamedTuple):
    """Pairs are suspended at number `at`, before this record, because the `failed` ones failed; if
    there is none, because the journal, or a copy of a part of it, could not be read for them.

    The secondaries of the `unusable` ones hold no state that existed. `missed` is what each
    secondary has not received of the changes after `at`. `rebuild`: the numbers of those that the
    journal makes usable again, see `rebuilding.py`.
    """

    id: str
    at: int
    volumes: Sequence[int]
    failed: Sequence[int]
    unusable: Sequence[int]
    error: str
    missed: Mapping[int, ChangeMap]
    rebuild: Mapping[int, int] = {}

    def pack(self) -> Json:
        rebuild = {str(volume): at for volume, at in self.rebuild.items()}
        return {
            "m": "fail", "id": self.id, "at": self.at, "volumes": list(self.volumes),
            "failed": list(self.failed), "unusable": list(self.unusable), "error": self.error,
            "missed": pack_maps(self.missed), **({"rebuild": rebuild} if rebuild else {}),
        }  # fmt: skip

    @classmethod
    def unpack(cls, fields: Json) -> Fail:
        return cls(
            str(fields["id"]),
            int(fields["at"]),
            numbers(fields["volumes"]),
            numbers(fields["failed"]),
            numbers(fields["unusable"]),
            str(fields.get("error", "")),
            unpack_maps(fields["missed"]),
            {int(volume): int(at) for volume, at in fields.get("rebuild", {}).items()},
        )


class Resync(NamedTuple):
    """Suspended pairs follow again; `how` is JOURNAL or MAP."""

    job: str
    how: str
    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "resync", "job": self.job, "how": self.how, "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Resync:
        return cls(str(fields["job"]), str(fields["how"]), numbers(fields["volumes"]))


class Abandon(NamedTuple):
    """A resync ended with the secondaries untouched, suspended for the reasons they had."""

    job: str
    volumes: Sequence[int]
    reasons: Mapping[int, str]

    def pack(self) -> Json:
        own = {"m": "abandon", "job": self.job, "volumes": list(self.volumes)}
        reasons = {str(number): text for number, text in self.reasons.items()}
        return {**own, "reasons": reasons} if reasons else own

    @classmethod
    def unpack(cls, fields: Json) -> Abandon:
        reasons = {int(number): str(text) for number, text in fields.get("reasons", {}).items()}
        return cls(str(fields["job"]), numbers(fields["volumes"]), reasons)


class Commit(NamedTuple):
    """A staging log of `records` records holds all changes up to number `at`."""

    job: str
    at: int
    records: int
    volumes: Sequence[int]

    def pack(self) -> Json:
        own = {"m": "commit", "job": self.job, "at": self.at, "count": self.records}
        return {**own, "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Commit:
        volumes = numbers(fields["volumes"])
        return cls(str(fields["job"]), int(fields["at"]), int(fields["count"]), volumes)


class Settled(NamedTuple):
    """A committed staging log is applied, durably."""

    job: str
    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "settled", "job": self.job, "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Settled:
        return cls(str(fields["job"]), numbers(fields["volumes"]))


class Equal(NamedTuple):
    """The secondaries hold all changes."""

    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "equal", "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Equal:
        return cls(numbers(fields["volumes"]))


class Missed(NamedTuple):
    """These bytes may have changed without a record; of those `adopted`, to another image."""

    changed: Mapping[int, ChangeMap]
    adopted: tuple[int, ...] = ()

    def pack(self) -> Json:
        adopted = {"adopted": list(self.adopted)} if self.adopted else {}
        return {"m": "missed", "volumes": pack_maps(self.changed), **adopted}

    @classmethod
    def unpack(cls, fields: Json) -> Missed:
        return cls(unpack_maps(fields["volumes"]), tuple(numbers(fields.get("adopted", ()))))


class Regions(NamedTuple):
    """Legs may differ there after a power cut. Primaries of `late` may change without a record."""

    fresh: Mapping[int, Sequence[int]]
    late: Sequence[int] = ()

    def pack(self) -> Json:
        volumes = {str(number): list(regions) for number, regions in self.fresh.items()}
        return {"m": "regions", "volumes": volumes} | ({"late": [*self.late]} if self.late else {})

    @classmethod
    def unpack(cls, fields: Json) -> Regions:
        fresh = {int(number): numbers(regions) for number, regions in fields["volumes"].items()}
        return cls(fresh, tuple(numbers(fields.get("late", ()))))


class Detach(NamedTuple):
    """The secondaries were removed from the configuration."""

    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "detach", "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Detach:
        return cls(numbers(fields["volumes"]))


class Swap(NamedTuple):
    """The two images of each pair change roles.

    The new primary holds all changes before this record if the pair is DUPLEX. If it is SUSPENDED,
    it holds those up to the cut, and the later ones are given up.
    """

    volumes: Sequence[int]

    def pack(self) -> Json:
        return {"m": "swap", "volumes": list(self.volumes)}

    @classmethod
    def unpack(cls, fields: Json) -> Swap:
        return cls(numbers(fields["volumes"]))


Marker: TypeAlias = (
    Open | Close | NewVolume | Remove | Attach | Copy | Copied | MakeCut | Stood | Ready | Agreed
    | Void | Fail | Grade | Resync | Abandon | Commit | Settled | Equal | Missed | Regions | Detach
    | Swap | Synced | Differ | Same | Scrubbed | Reader | Unread | Rollback | RolledBack | Mark
    | Horizon | CutAt | Onward | Drilled | Grow
)  # fmt: skip

KINDS: dict[str, type[Marker]] = {
    "open": Open, "close": Close, "volume": NewVolume, "remove": Remove, "attach": Attach,
    "copy": Copy, "copied": Copied, "cut": MakeCut, "stood": Stood, "ready": Ready,
    "agreed": Agreed, "void": Void, "fail": Fail, "grade": Grade, "resync": Resync,
    "abandon": Abandon, "commit": Commit, "settled": Settled, "equal": Equal, "missed": Missed,
    "regions": Regions, "detach": Detach, "swap": Swap, "synced": Synced,
    "differ": Differ, "same": Same, "scrubbed": Scrubbed, "reader": Reader, "unread": Unread,
    "rollback": Rollback, "rolledback": RolledBack, "drilled": Drilled, "mark": Mark,
    "horizon": Horizon, "cutat": CutAt, "onward": Onward, "grow": Grow,
}  # fmt: skip


def encode(marker: Marker) -> bytes:
    """A marker as the payload of its record."""
    return json.dumps(marker.pack(), separators=(",", ":")).encode()


def unpack(fields: Json) -> Marker:
    """The marker that `pack` wrote. Raises ValueError for anything else."""
    try:
        return KINDS[fields["m"]].unpack(fields)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"not a marker: {fields!r} ({error!r})") from error
