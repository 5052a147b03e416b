"""What a configuration must satisfy, and how a mistake is told. No I/O but looking up where a path leads."""

from __future__ import annotations

import difflib
import os
import re
import stat
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel

from duplexd import limits
from duplexd.net.address import Address, TcpAddress, UnixAddress, parse_address, parse_host_port
from duplexd.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from duplexd.config.daemon_file import Config

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,127}")
_WANTED = {
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "bool_type": "true or false",
    "literal_error": "one of the choices",
}


def check_name(value: Any) -> str:
    """A name of a controller, volume or group. Raises ValueError."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in {".", ".."}:
        raise ValueError(
            f"{value!r} is not a name; write 1 to 128 letters, digits, '.', '_' or '-', not '-' first"
        )
    return value


def check_volume_size(value: Any) -> int:
    """Bytes of a volume. Raises ValueError."""
    size = parse_size(value)
    unit, most = limits.VOLUME_ALIGNMENT_BYTES, limits.VOLUME_BYTES_MAX
    if size <= 0:
        raise ValueError(f"{value!r} is no size for a volume; write at least {unit}")
    if size > most:
        raise ValueError(f"{value!r} is too big; write at most {most} ({format_size(most)})")
    if size % unit:
        raise ValueError(
            f"{value!r} is not a multiple of {unit} bytes; write {size // unit * unit or unit} or {(size // unit + 1) * unit}"
        )
    return size


def check_hold_max(value: Any) -> float:
    """Seconds that writes may be held. Raises ValueError."""
    most = limits.HOLD_SECONDS_MAX
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ValueError(
            f"{value!r} is no time to hold writes; write seconds, more than 0 and at most {most:g}: Linux's NBD client gives up later"
        )
    return float(value)


def absolute_path(value: object, base: Path) -> Path:
    """A path of the file, made absolute: relative ones start at the file's directory. Raises ValueError."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f'{value!r} is not a path; write for example "/srv/a/data.img"')
    if "\0" in str(value):
        raise ValueError(f"{str(value)!r} is not a path: it has a NUL in it; remove it")
    return Path(os.path.normpath(base / value))


def check_listen(value: object, base: Path) -> Address:
    """`unix:PATH`, made absolute, or `tcp:HOST:PORT`. Raises ValueError."""
    address = parse_address(value)
    if isinstance(address, UnixAddress):
        return UnixAddress(str(check_socket(address.path, base)))
    return _fixed_port(address, value)


def check_host_port(value: object) -> TcpAddress:
    """`HOST:PORT`. Raises ValueError."""
    return _fixed_port(parse_host_port(value), value)


def check_socket(value: object, base: Path) -> Path:
    """The path of a Unix socket, made absolute. Raises ValueError."""
    path = absolute_path(value, base)
    if (length := len(os.fsencode(path))) > limits.SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"{str(path)!r} is too long for a Unix socket ({length} bytes);"
            f" expected at most {limits.SOCKET_PATH_BYTES_MAX}"
        )
    return path


def _fixed_port(address: TcpAddress, value: object) -> TcpAddress:
    if address.port == 0:  # any free port: clients could not know which
        raise ValueError(f"{value!r}: port 0 is out of range; expected 1 to 65535")
    return address


# -------------------------------------------------------------------------------------------------- what must fit together


def check_together(config: Config) -> list[str]:
    """Mistakes that show only when several values are seen at once, as lines without the file's name."""
    return [*_remote(config), *_listeners(config), *_images(config), *_groups(config)]


def _remote(config: Config) -> Iterator[str]:
    tls = config.control.tls
    if tls is None:
        return
    if not tls.operate and not tls.observe:
        yield 'control.tls: nobody could come in; write for example operate = ["backup.example"] or observe = ["monitor.example"]'
    for index, name in enumerate(tls.observe):
        if name in tls.operate:
            yield f"control.tls.observe[{index}]: {name!r} is in control.tls.operate too, which may do all of this; remove one"
    for index, address in enumerate(tls.listen):
        if address in tls.listen[:index]:
            yield f"control.tls.listen[{index}]: {address.authority!r} is listed twice; remove one"


def _listeners(config: Config) -> Iterator[str]:
    seen = {_place(UnixAddress(str(config.control.socket))): "control.socket"}
    if config.control.tls is not None:
        seen |= {
            address: f"control.tls.listen[{index}]"
            for index, address in enumerate(config.control.tls.listen)
        }
    for index, address in enumerate(config.nbd.listen):
        key, place = f"nbd.listen[{index}]", _place(address)
        if place in seen:
            yield f"{key}: '{address}' is used twice, also by {seen[place]}; remove one"
        seen.setdefault(place, key)
        if not config.nbd.insecure and not address.is_local:
            yield (
                f"{key}: '{address}' can be reached from other machines, without encryption or"
                " password; listen on 127.0.0.1, or set insecure = true in [nbd]"
            )


def _place(address: Address) -> Address:
    """Equal for two addresses that cannot both be bound."""
    if isinstance(address, UnixAddress):
        return UnixAddress(os.path.realpath(address.path))
    return address


def _identity(path: Path) -> tuple[object, ...]:
    """Equal for two paths that lead to the same file or block device, whether it exists or not."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return (os.path.realpath(path),)
    return (
        ("device", status.st_rdev)
        if stat.S_ISBLK(status.st_mode)
        else (status.st_dev, status.st_ino)
    )


def _images(config: Config) -> Iterator[str]:
    if len(config.volumes) > limits.VOLUMES_MAX:
        yield f"volumes: {len(config.volumes)} volumes are too many; write at most {limits.VOLUMES_MAX}"
        return
    others = [
        ("controller.state_dir", config.controller.state_dir),
        ("control.socket", config.control.socket),
        ("the file itself", config.source),
    ]
    others += [
        (f"nbd.listen[{n}]", Path(address.path))
        for n, address in enumerate(config.nbd.listen)
        if isinstance(address, UnixAddress)
    ]
    if (tls := config.control.tls) is not None:
        others += [
            (f"control.tls.{key}", getattr(tls, key)) for key in ("certificate", "key", "client_ca")
        ]
    seen = {_identity(path): what for what, path in others}
    state_dir = Path(os.path.realpath(config.controller.state_dir))
    for name, volume in config.volumes.items():
        for leg, path in (("primary", volume.primary), ("secondary", volume.secondary)):
            if path is None:
                continue
            key, identity = f"volumes.{name}.{leg}", _identity(path)
            if identity in seen:
                yield f"{key}: {str(path)!r} is used twice, also by {seen[identity]}; configure an image for each leg"
            elif (
                Path(os.path.realpath(path)).is_relative_to(state_dir / "journal")
                or os.path.realpath(path) == f"{state_dir}/checkpoint"
            ):
                yield f"{key}: {str(path)!r} is where the journal lives; put the image outside of controller.state_dir"
            seen.setdefault(identity, key)


def _groups(config: Config) -> Iterator[str]:
    for name, group in config.groups.items():
        key = f"groups.{name}"
        if name in config.volumes:
            yield f"{key}: a volume has this name too; commands could not tell them apart: rename one"
        for index, member in enumerate(group.volumes):
            if member not in config.volumes:
                yield f"{key}.volumes[{index}]: there is no volume {member!r}{did_you_mean(member, list(config.volumes))}"
            if member in group.volumes[:index]:
                yield f"{key}.volumes[{index}]: {member!r} is listed twice; remove one"
        modes: dict[str, str] = {}
        for member in group.volumes:
            volume = config.volumes.get(member)
            if volume is not None and volume.secondary is not None:
                modes.setdefault(volume.mode, member)
        if len(modes) > 1:
            mixed = " and ".join(f"{member!r} ({mode})" for mode, member in modes.items())
            yield f"{key}.volumes: {mixed} differ in mode, but a group is cut at one number; give all of its volumes the same mode"


# ------------------------------------------------------------------------------------------------------ how it is told


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each mistake that pydantic found in `model`: `dotted.key: what is wrong; what would be right`."""
    return [f"{_dotted(detail['loc'])}: {_reason(detail, model)}" for detail in error.errors()]


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{part}" if text else part
    return text


def _reason(detail: ErrorDetails, model: type[BaseModel]) -> str:
    kind, key, value = detail["type"], str(detail["loc"][-1]), detail["input"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    owner = _model_at(model, detail["loc"][:-1])
    if kind == "extra_forbidden":
        keys = [name for name in owner.model_fields if name != "source"] if owner else []
        return f"unknown key{did_you_mean(key, keys)}"
    if kind in {"too_short", "string_too_short"}:
        return f"is empty; {_example(owner, key)}"
    if kind == "missing":
        return f"is missing; {_example(owner, key)}"
    return f"{value!r} is not {_WANTED.get(kind, 'right')}; {_example(owner, key)}"


def did_you_mean(word: str, choices: list[str]) -> str:
    """`; did you mean ...?`, or the choices; empty if there are none."""
    close = difflib.get_close_matches(word, choices, 1, 0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return (
        f"; write one of: {', '.join(choices[:12])}{' ...' if len(choices) > 12 else ''}"
        if choices
        else ""
    )


def _example(owner: type[BaseModel] | None, key: str) -> str:
    field = owner.model_fields.get(key) if owner else None
    if field is None:
        return "see configs/duplexd.toml"
    if field.examples:
        choices = get_args(field.annotation) if get_origin(field.annotation) is not None else ()
        texts = [f'"{choice}"' for choice in choices if isinstance(choice, str)] or field.examples
        return f"write {'' if len(texts) > 1 else 'for example '}{' or '.join(f'{key} = {text}' for text in texts)}"
    return f"write a table [{key}]"


def _table(annotation: Any) -> Any:
    """What the table is in `table | None`; anything else as it is."""
    return get_args(annotation)[0] if get_origin(annotation) in {UnionType, Union} else annotation


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that the table at `location` is checked with."""
    current: Any = model
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = _table(field.annotation) if field else None
        elif get_origin(current) is dict:
            current = get_args(current)[1]
        else:
            return None
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None
