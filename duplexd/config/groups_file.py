"""groups.toml: where controllers answer, and which of their volumes are cut together.

    [controllers.alpha]
    socket = "/run/duplexd/alpha/control.sock"

    [controllers.beta]
    url = "https://beta.example:10810"
    certificate = "client.pem"
    key = "client.key"
    ca = "ca.pem"

    [groups.db]
    members = ["alpha:data", "beta:wal"]
    hold_max = 2.0

Every mistake is one line: `FILE: key.of.the.value: what is wrong; what would be right`. Relative
paths are relative to the file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    StrictStr,
    ValidationError,
    model_validator,
)

from duplexd.config.explain import did_you_mean, explain
from duplexd.config.fields import FilePath, ListenAddress, Name, Section, SocketPath
from duplexd.config.groups import Group
from duplexd.config.hook_fields import HookFields
from duplexd.config.text import decode
from duplexd.config.values import check_hold_max
from duplexd.errors import ConfigurationError, NotFoundError, UsageError
from duplexd.limits import HOLD_SECONDS_DEFAULT, MEMBERS_MAX
from duplexd.net.address import UrlAddress, parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_PATH = "/etc/duplexd/groups.toml"
_URL_EXAMPLE = '"https://HOST:10810"'


def _url(value: object) -> UrlAddress:
    url = parse_url(value)
    if not url.tls and not url.where.is_local:
        raise ValueError(
            f"{value!r} goes to another machine without encryption;"
            " expected https://, or http://localhost:PORT with ssh -L"
        )
    return url


class ControllerEntry(Section):
    """`[controllers.NAME]`: where a controller answers: on a local socket, or at a URL."""

    socket: SocketPath | None = Field(default=None, examples=['"/run/duplexd/NAME/control.sock"'])
    url: Annotated[UrlAddress, BeforeValidator(_url)] | None = Field(
        default=None, examples=[_URL_EXAMPLE]
    )
    certificate: FilePath | None = Field(default=None, examples=['"/etc/duplexd/client.pem"'])
    key: FilePath | None = Field(default=None, examples=['"/etc/duplexd/client.key"'])
    ca: FilePath | None = Field(default=None, examples=['"/etc/duplexd/ca.pem"'])
    nbd: ListenAddress | None = Field(default=None, examples=['"tcp:HOST:10809"'])

    @model_validator(mode="after")
    def _check(self) -> ControllerEntry:
        if (self.socket is None) == (self.url is None):
            raise ValueError(
                'needs one of the two; write socket = "/run/duplexd/NAME/control.sock" or url = '
                + _URL_EXAMPLE
            )
        tls = self.url is not None and self.url.tls
        if tls and self.certificate is None:
            raise ValueError(
                "https needs a client certificate, by which the controller knows who asks; write"
                " certificate = FILE (and key = FILE)"
            )
        if not tls and (self.certificate or self.key or self.ca):
            raise ValueError(
                "certificate, key and ca are for https; remove them, or write url = " + _URL_EXAMPLE
            )
        return self


class GroupEntry(HookFields):
    """`[groups.NAME]`: volumes, or groups of a controller, that are cut at one point."""

    members: list[StrictStr] = Field(min_length=1, examples=['["alpha:data", "beta:wal"]'])
    hold_max: Annotated[float, BeforeValidator(check_hold_max)] = Field(
        default=HOLD_SECONDS_DEFAULT, examples=["2.0"]
    )
    canary: list[StrictStr] = Field(
        default_factory=list, examples=['["alpha:canary", "beta:canary"]']
    )


class Groups(Section):
    """The whole file, or the same made of objects."""

    controllers: dict[Name, ControllerEntry] = Field(min_length=1)
    groups: dict[Name, GroupEntry] = Field(default_factory=dict)
    _path: str = PrivateAttr(default="")  # of the file; empty for one made of objects

    def read_from(self, path: str | Path) -> None:
        """Note where it is written."""
        self._path = str(Path(path).absolute())

    def has(self, target: str) -> bool:
        """Whether `target` is a group of the file, or names one of its controllers."""
        return target in self.groups or (
            target.partition(":")[0] in self.controllers and ":" in target
        )

    def resolve(self, targets: Sequence[str]) -> Group:
        """The volumes that all `targets` together mean. Raises NotFoundError, UsageError."""
        if not targets:
            raise UsageError(
                "no target given; name at least one group, or volumes as controller:volume"
            )
        members: dict[str, dict[str, None]] = {}
        entries, hooks = [], []
        targets = list(dict.fromkeys(targets))
        for target in targets:
            entry = self.groups.get(target)
            if entry is not None:
                entries.append(entry)
                hooks.append(entry.hooks(target))
            for member in [*entry.members, *entry.canary] if entry else [target]:
                controller, name = self._split(member)
                members.setdefault(controller, {})[name] = None
        return Group(
            " ".join(targets),
            {controller: tuple(names) for controller, names in members.items()},
            min((entry.hold_max for entry in entries), default=HOLD_SECONDS_DEFAULT),
            tuple(dict.fromkeys(volume for entry in entries for volume in entry.canary)),
            hooks=tuple(each for each in hooks if each),
            hooks_file=self._path,
        )

    def everything(self) -> Group:
        """All controllers of the file, with all that they have."""
        return Group("", dict.fromkeys(self.controllers, ()))

    def _split(self, member: str) -> tuple[str, str]:
        controller, colon, name = member.partition(":")
        if not colon or not name:
            hint = did_you_mean(member, list(self.groups))
            raise NotFoundError(
                f"no group {member!r} in the groups file{hint}; a volume is named controller:volume"
            )
        if controller not in self.controllers:
            hint = did_you_mean(controller, list(self.controllers))
            raise NotFoundError(f"{member}: no controller {controller!r} in the groups file{hint}")
        return controller, name


def load(path: str | Path) -> Groups:
    """Read and check a groups file. Raises ConfigurationError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be read: {error.strerror}; name the groups file with --groups FILE"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{str(path)!r}: not a file name: {error}") from None
    groups = parse(decode(data, path), path)
    groups.read_from(path)
    return groups


def parse(text: str, path: str | Path) -> Groups:
    """Check the text of a groups file that lies (or would lie) at `path`.

    Raises ConfigurationError.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not TOML: {str(error) or 'nested too deeply'}") from None
    try:
        groups = Groups.model_validate(raw, context={"base": Path(path).absolute().parent})
    except ValidationError as error:
        raise ConfigurationError(
            "\n".join(f"{path}: {line}" for line in explain(error, Groups))
        ) from None
    if problems := list(_check_together(groups)):
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in problems))
    return groups


def _check_together(groups: Groups) -> Iterator[str]:
    places: dict[str, str] = {}
    for name, entry in groups.controllers.items():
        place = str(entry.socket or entry.url)
        if place in places:
            same = f"{places[place]!r} ({place})"
            yield f"controllers.{name}: is the same controller as {same}; remove one"
        places.setdefault(place, name)
    for name, group in groups.groups.items():
        count = len({member.partition(":")[0] for member in group.members})
        if count > MEMBERS_MAX:
            yield (
                f"groups.{name}.members: {count} controllers are too many for one cut; name at most"
                f" {MEMBERS_MAX} (MEMBERS_MAX)"
            )
        for key, listed in (("members", group.members), ("canary", group.canary)):
            for index, member in enumerate(listed):
                if mistake := _mistake(groups, listed[:index], member):
                    yield f"groups.{name}.{key}[{index}]: {mistake}"


def _mistake(groups: Groups, before: list[str], member: str) -> str:
    controller, _, target = member.partition(":")
    if not controller or not target:
        return f'{member!r} is not a member; write "controller:volume", for example "alpha:data"'
    if controller not in groups.controllers:
        hint = did_you_mean(controller, list(groups.controllers))
        return f"there is no controller {controller!r}{hint}"
    return f"{member!r} is listed twice; remove one" if member in before else ""
