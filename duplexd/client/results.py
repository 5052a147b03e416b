"""What commands answer, on one daemon as on a group: one shape for each verb.

Volumes are called as they are called in targets: `data` of one daemon, `alpha:data` of several.
Times are seconds. docs/duplexctl-json.md lists the fields; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from duplexd.core.waits import together, unpack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from duplexd.config.groups import Group
    from duplexd.json_object import Json


_PHASES = ("draining", "held", "cut")  # of a hold


@dataclass(frozen=True)
class Result:
    """Base of all results."""

    def json(self) -> Json:
        """As an object that JSON can hold. What controllers wrote is shared, not copied."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.json() if isinstance(value, Result) else value


@dataclass(frozen=True)
class Wellness(Result):
    """What is not well. `well` is false also if a controller did not answer."""

    well: bool
    volumes: int  # that were looked at
    # {controller, volume, kind, severity, text, since}, errors first
    findings: list[Json] = field(default_factory=list)
    unreachable: dict[str, str] = field(default_factory=dict)  # why, by controller
    exit_codes: dict[str, int] = field(default_factory=dict)  # of these

    def only(self, severity: str, besides: Collection[str] = ()) -> Wellness:
        """Without the findings of another severity, and of the kinds `besides`."""
        of_it = [each for each in self.findings if each["severity"] == severity]
        left = [each for each in of_it if each["kind"] not in besides]
        return replace(self, well=not left and not self.unreachable, findings=left)


@dataclass(frozen=True)
class Hold(Result):
    """How long writes waited, over all members."""

    seconds_max: float = 0.0
    writes_held: int = 0
    p50_s: float = 0.0
    p99_s: float = 0.0
    held_s: float = 0.0  # the longest that the gates of one member were closed
    hold_max_s: float = 0.0
    within_limit: bool = True
    phases: dict[str, Json] = field(
        default_factory=lambda: _phases(())
    )  # {seconds, writes} of each
    volumes: list[Json] = field(default_factory=list)  # {name, count, max_s, p50_s, p99_s}
    buckets: list[list[int]] = field(default_factory=list)  # [n, count] of waits of 2**(n/16) us


@dataclass(frozen=True)
class Suspended(Result):
    """A suspend.

    Only if `verdict` is `consistent` are the secondaries a consistent point-in-time copy; then they
    are durable and readable at their paths. Except for those in `left`, which somebody resynced
    before the suspend was done. `untold` names the members that do not have the verdict yet, as
    they no longer answered; `duplexctl settle` sends it.
    """

    verdict: str  # "consistent" or "void"
    cut: str
    tag: str
    group: str
    controllers: dict[str, int]  # the sequence number of the cut on each
    volumes: list[str]
    hold: Hold = field(default_factory=Hold)
    # closing, held, cutting, opening, settling: on the coordinator's clock
    phases: dict[str, float] = field(default_factory=dict)
    why: str = ""  # if void: what went wrong first; if some have left: which
    left: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    already: bool = False  # all of them were at this cut before the command
    members: list[Json] = field(default_factory=list)  # what each controller said of its cut
    time: float | None = None  # of the cut, seconds since 1970; of several controllers the latest
    seconds: float = 0.0  # that the suspend took
    reader: str = ""  # who keeps the secondaries at the cut
    # {hook, group, status, seconds, exit_code, output, why, controller}; not what the verdict is of
    hooks: list[Json] = field(default_factory=list)
    mark: str = ""  # the mark that it is at, if it is at one
    earlier_s: float | None = None  # how much earlier that is than the time that was asked for


@dataclass(frozen=True)
class Cut(Result):
    """A cut of a group, as its members know it. `verdict` is None while it is undecided."""

    cut: str
    verdict: str | None
    tag: str
    group: str
    time: float
    controllers: dict[str, int | None]
    states: dict[str, str | None]  # of each member; None: it does not answer
    members: list[str]
    canary: dict[str, Json] = field(default_factory=dict)  # controller: what the canary found
    readers: list[str] = field(default_factory=list)  # who reads it, on any controller

    @property
    def untold(self) -> list[str]:
        """Members that do not know the verdict, or do not answer."""
        return [
            name for name in self.members if self.states.get(name) not in {"consistent", "void"}
        ]


@dataclass(frozen=True)
class Cuts(Result):
    """The cuts that controllers remember, newest last."""

    cuts: list[Cut]
    unreachable: dict[str, str] = field(default_factory=dict)  # controller: why


@dataclass(frozen=True)
class Changes(Result):
    """What changed between two cuts. `exact` is false if more than that counts in a volume.
    `volumes` are as controllers show them, with all of their extents.
    """

    changed_bytes: int  # of all volumes
    exact: bool
    volumes: list[Json] = field(default_factory=list)


@dataclass(frozen=True)
class Marked(Result):
    """A mark: a consistent point, if `verdict` says so. No pair was suspended for it."""

    verdict: str  # "consistent" or "void"
    mark: str  # its id
    tag: str
    group: str
    controllers: dict[str, int]  # the sequence number of the mark on each
    volumes: list[str]
    time: float | None = None  # seconds since 1970; of several controllers the latest
    hold: Hold = field(default_factory=Hold)  # how long writes waited; of one controller, none
    why: str = ""  # if void: what went wrong first
    untold: list[str] = field(default_factory=list)  # members that do not have the verdict yet


@dataclass(frozen=True)
class KeptPoint(Cut):
    """A cut or mark that is kept. `within_reach`: it is consistent, and all secondaries can be
    brought to it; else `why` not.
    """

    kind: str = "cut"  # or "mark"
    whole: bool = True  # it was made of all volumes that were asked for
    within_reach: bool = False
    why: str = ""


@dataclass(frozen=True)
class Kept(Result):
    """The cuts and marks that are kept, newest last."""

    group: str
    points: list[KeptPoint]
    unreachable: dict[str, str] = field(default_factory=dict)  # controller: why


@dataclass(frozen=True)
class Settled(Result):
    """What became of the cuts that were undecided."""

    group: str
    cuts: list[Cut]


@dataclass(frozen=True)
class GroupState(Result):
    """A group at a glance.

    `verdict` is `consistent` only if all of it is at one cut that every member knows to be.
    """

    name: str
    volumes: list[str]
    members: list[str]  # targets: volumes, or groups of a controller
    state: str | None  # of all pairs; MIXED; UNKNOWN: a member does not answer or lacks a volume
    cut: str | None
    verdict: str | None
    missing: list[str] = field(default_factory=list)  # members that their controllers do not have


@dataclass(frozen=True)
class Status(Result):
    """What controllers say of the targets, each and together, and the groups."""

    controller: Json | None  # of the one controller; None if there are several
    volumes: list[Json]
    groups: list[GroupState]
    leases: list[Json]
    cuts: list[Json]
    controllers: dict[str, Json]
    unreachable: dict[str, str] = field(default_factory=dict)  # controller: why
    exit_codes: dict[str, int] = field(default_factory=dict)  # controller: of which kind that is


@dataclass(frozen=True)
class Resynced(Result):
    """A resync that was started, or, with `wait`, ended: `ok` if all are DUPLEX, and no legs
    are known to differ. Those in `refused` were left out.
    """

    volumes: list[Json]  # {name, how}; with wait {name, how, state, reason, copied_bytes, error,
    # differs}
    waited: bool
    ok: bool
    # cuts that were given up without knowing whether they are consistent
    warnings: list[str] = field(default_factory=list)
    job: str = ""  # of one controller, which is not waited for
    refused: list[Json] = field(default_factory=list)  # {name, error}
    readers: list[str] = field(default_factory=list)  # who read the cut still: nothing was begun


@dataclass(frozen=True)
class ReaderEnded(Result):
    """A named reader that reads no more, and what it read."""

    reader: str
    volumes: list[str]


@dataclass(frozen=True)
class Cloned(Result):
    """A clone of each volume at one cut. They belong together if `verdict` is `consistent`."""

    clone: str
    cut: str
    tag: str
    verdict: str | None
    # {name, controller, volume, export, uris, cut, size, limit_bytes, used_bytes, connections,
    # since, first_fault}
    volumes: list[Json]


@dataclass(frozen=True)
class CloneDropped(Result):
    """Clones that were ended, and of which volumes."""

    clone: str
    volumes: list[str]


@dataclass(frozen=True)
class Clones(Result):
    """The clones that there are."""

    clones: list[Json]  # {name, volume, export, cut, size, limit_bytes, used_bytes, ...}


@dataclass(frozen=True)
class Points(Result):
    """What can be read of the volumes' cuts. `cut` and `verdict` are those of all of them, if they
    are at one; else null, and nothing that is read of them belongs together.
    """

    group: str
    cut: str | None
    verdict: str | None
    tag: str
    time: float | None
    controllers: dict[str, Json]  # {nbd, sequence} of each
    # {name, controller, volume, export, uris, size, cut, sequence, time, tag, verdict, path,
    # readers}; those that cannot be read have no `export`, and say `why`
    volumes: list[Json]
    certificate: Json | None = None  # of the cut, as `suspend --certificate` writes it


@dataclass(frozen=True)
class Verified(Result):
    """A comparison of the legs. `equal` is None if no leg differs, and nothing was compared of one:
    all of it may have changed since its cut.
    """

    equal: bool | None
    volumes: list[Json]  # {name, equal, compared_bytes, first_difference, why}


@dataclass(frozen=True)
class Roles(Result):
    """A swap or an adopt: what became of each volume, and of the controllers that refused.

    Without a groups file nothing is in `failed`: the one daemon's refusal is raised.
    """

    volumes: list[Json]  # {name, state, reason, swapped, primary, secondary, sequence, lost, ...}
    failed: dict[str, str] = field(default_factory=dict)  # controller: why
    exit_codes: dict[str, int] = field(default_factory=dict)  # controller: of which kind that is


@dataclass(frozen=True)
class Repaired(Result):
    """What was made equal, or with `dry_run` would be; `failed` as in `Roles`. `no_difference`:
    volumes of which none is recorded.
    """

    volumes: list[Json]  # {name, from, path, ranges, bytes, repaired}
    failed: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    no_difference: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RolledBack(Result):
    """A rollback to `cut`, or a step of it. `outcome`: "rolled back"; "measured", with `dry_run`;
    "abandoned"; or "not finished": then `failed` says of each controller why, and volumes that are
    not `served` wait for the same command. Without a groups file an error is raised instead.
    """

    group: str
    outcome: str
    cut: str
    tag: str
    volumes: list[Json]  # {name, served, compared_bytes, differing_bytes, written_bytes}
    failed: dict[str, str] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reloaded(Result):
    """What a reload changed, or with `applied` false would change."""

    applied: bool
    changes: list[str]


@dataclass(frozen=True)
class RestartedInPlace(Result):
    """A restart that is done. `pause_s`: how long NBD clients waited. `clients_lost`: connections
    that were closed, because of TLS or of a request that took too long.
    """

    version: str
    previous_version: str
    pause_s: float
    clients_kept: int
    clients_lost: int


@dataclass(frozen=True)
class Released(Result):
    """Holds that were ended: `lease` is what was named, `released` whether any was held still."""

    lease: str
    released: bool
    leases: dict[str, bool]


def titled(group: Group, controller: str, answer: Json) -> Json:
    """An answer about volumes, with these called as in targets."""
    named = {"volumes": answer["volumes"], "refused": answer.get("refused") or []}
    return answer | {
        key: [row | {"name": group.title(controller, row["name"])} for row in each]
        for key, each in named.items()
        if key in answer
    }


def merge_holds(group: Group, figures: Mapping[str, Json | None], hold_max_s: float) -> Hold:
    """The figures of all members in one. A member that gave none adds none.

    One daemon without a groups file knows its own `hold_max`, and nobody else does.
    """
    known = {name: each for name, each in figures.items() if each}
    waits = together(
        unpack(each.get("buckets") or (), each["seconds_max"]) for each in known.values()
    )
    longest = max((each["seconds_max"] for each in known.values()), default=0.0)
    if group.alone:
        own = (each.get("hold_max_s") for each in known.values())
        hold_max_s = next((each for each in own if each), hold_max_s)
    within = all(each.get("within_limit") is not False for each in known.values())
    return Hold(
        seconds_max=longest,
        writes_held=sum(each["writes_held"] for each in known.values()),
        p50_s=waits.quantile(0.5),
        p99_s=waits.quantile(0.99),
        held_s=max((each.get("held_s") or 0.0 for each in known.values()), default=0.0),
        hold_max_s=hold_max_s,
        within_limit=longest <= hold_max_s and within,
        phases=_phases(each.get("phases") or {} for each in known.values()),
        volumes=[
            volume | {"name": group.title(name, volume["name"])}
            for name, each in known.items()
            for volume in each.get("volumes") or ()
        ],
        buckets=waits.pack(),
    )


def _phases(all_phases: Iterable[Mapping[str, Json]]) -> dict[str, Json]:
    merged: dict[str, Json] = {name: {"seconds": 0.0, "writes": 0} for name in _PHASES}
    for phases in all_phases:
        for name, phase in phases.items():
            seen = merged.get(name, {"seconds": 0.0, "writes": 0})
            merged[name] = {
                "seconds": max(seen["seconds"], phase["seconds"]),
                "writes": seen["writes"] + phase["writes"],
            }
    return merged
