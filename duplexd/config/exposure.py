"""Listeners that let in more people than anybody asked for, and what each of them admits.

Who reaches a listener without rules can overwrite every volume. On a Unix socket the mode says
who that is. On TCP without TLS it is every process of this machine at least: the loopback address
keeps other machines out, and no local user. So each such listener needs the word `insecure`, and
`check` and the log say what it means.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from duplexd.config.nbd_section import OTHERS_WRITE, ListenerConfig
from duplexd.net.address import TcpAddress
from duplexd.net.allow import ADDRESS, GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from duplexd.config.daemon_file import Config
    from duplexd.config.nbd_section import NbdConfig, Place
    from duplexd.net.address import Address
    from duplexd.net.allow import Entry


def exposure(place: Place, nbd: NbdConfig) -> str:
    """Who can use this listener without being known; "" for nobody."""
    if not isinstance(place.address, TcpAddress):
        if place.mode & OTHERS_WRITE and place.allow is None:
            return "every user of this machine"
        return ""
    reach = (
        "every user of this machine"
        if place.address.is_local
        else "every machine that reaches the address, and everyone who can read its network traffic"
    )
    if place.tls != "required":
        return reach
    certified = nbd.tls is not None and nbd.tls.clients_need == "required"
    return "" if certified or _chooses(place.allow) else reach


def _chooses(allow: list[Entry] | None) -> bool:
    """Whether a list keeps anybody out: one with a network of all addresses does not."""
    return allow is not None and not any(
        kind == ADDRESS and ip_network(value).prefixlen == 0 for kind, value in allow
    )


def check_exposure(config: Config) -> Iterator[str]:
    """Mistakes: listeners that are open without the word for it, and a role that means nothing."""
    for place in config.nbd.places:
        if not place.insecure and (who := exposure(place, config.nbd)):
            yield (
                f"{place.key}: '{place.address}' lets in {who}, to {_deed(place)} every volume"
                f" without a rule; {_remedy(place)}, or set insecure = true"
            )
    if config.controller.image_mode & OTHERS_WRITE:
        yield (
            f'controller.image_mode: "{config.controller.image_mode:04o}" lets every user of this'
            ' machine overwrite images that are created; use "0640" and image_group'
        )
    yield from _tls(config.nbd)
    yield from check_observers(config, lambda group: group)


def refused_sockets(config: Config, passed: Iterable[Address]) -> Iterator[str]:
    """The same mistakes of sockets that were passed, and are not in the configuration. The mode of
    a Unix socket is in the hands of who made it.
    """
    known = set(config.nbd.addresses)
    for address in passed:
        listener = ListenerConfig.model_construct(address=address, insecure=config.nbd.insecure)
        place = config.nbd.place(listener, "LISTEN_FDS")
        is_new = isinstance(address, TcpAddress) and address not in known
        if is_new and not place.insecure and (who := exposure(place, config.nbd)):
            yield (
                f"LISTEN_FDS: '{address}' lets in {who}; {_remedy(place)}, or set"
                " insecure = true in [nbd]"
            )


def describe_exposure(config: Config) -> list[str]:
    """What is open on purpose, in lines for a person."""
    lines = []
    for place in config.nbd.places:
        if who := exposure(place, config.nbd):
            volumes = [name for name, volume in config.volumes.items() if volume.allow is None]
            shown = ", ".join(volumes[:4]) + (" ..." if len(volumes) > 4 else "")
            lines.append(
                f"{place.address} is insecure: {who} can {_deed(place)} {shown or 'no volume'}"
            )
    return lines


def _deed(place: Place) -> str:
    return "read" if place.read_only else "overwrite"


def _remedy(place: Place) -> str:
    if not isinstance(place.address, TcpAddress):
        return 'use mode = "0660" and a group'
    if place.tls == "required":
        return "set client_ca in [nbd.tls], or allow for this listener"
    return "use a Unix socket, or TLS ([nbd.tls])"


def _tls(nbd: NbdConfig) -> Iterator[str]:
    for place in nbd.places:
        if place.tls != "off" and nbd.tls is None:
            yield (
                f"{place.key}.tls: {place.tls!r} needs a certificate; add a table [nbd.tls] with"
                " certificate and key"
            )
    if nbd.tls is not None and nbd.tls.client_ca is None and nbd.tls.clients_need != "none":
        yield (
            f"nbd.tls.clients: {nbd.tls.clients!r} needs the authority that signs clients;"
            ' set client_ca = "clients.pem"'
        )


def check_observers(
    config: Config, number: Callable[[str | None], int | str | None]
) -> Iterator[str]:
    """A group that may only look, but whose members may write to every volume, is a mistake.

    `number` is that of a group by its name, or of the daemon's own for None. Where the machine
    cannot be asked it is the name: then two names of one group are taken for two groups.
    """
    control = config.control
    if control.group_role != "observe":
        return
    for place in config.nbd.places:
        if not isinstance(place.address, TcpAddress) and _may_write(config, place, number):
            whose = f"the group {control.group!r}" if control.group else "the daemon's own group"
            yield (
                f'control.group_role: "observe" is for {whose}, whose members may write to volumes'
                f" through '{place.address}'; set control.group to another group, or"
                " nbd.group, or a mode or list of that socket which keeps the group out"
            )
            return


def _may_write(
    config: Config, place: Place, number: Callable[[str | None], int | str | None]
) -> bool:
    """Whether the group of the control socket may: by the mode of its file, for its group or for
    others, as the kernel chooses one of the two; then by the lists.
    """
    group = number(config.control.group)
    writes = 0o020 if number(place.group) == group else OTHERS_WRITE

    def lists_group(allow: list[Entry] | None) -> bool:
        """Without a list everybody is on it; with one, the group is named or its users are."""
        return allow is None or any(kind == GROUP and number(name) == group for kind, name in allow)

    lists = [volume.allow for volume in config.volumes.values() if not volume.read_only]
    return (
        bool(place.mode & writes)
        and not place.read_only
        and lists_group(place.allow)
        and any(map(lists_group, lists))
    )
