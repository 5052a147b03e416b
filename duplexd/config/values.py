"""What a single value of the configuration must satisfy.

Each check takes what the TOML parser found, of whatever type, and returns the value that the rest
of the program uses, or raises ValueError with what is wrong and what was expected; pydantic calls
it and knows the key. The bounds are facts of formats, of the kernel or of what clients bear, not
matters of taste, so they are constants. No I/O.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from duplexd import limits
from duplexd.net.address import Address, TcpAddress, UnixAddress, parse_address, parse_host_port
from duplexd.units import format_size, parse_duration, parse_size, toml

_OWNER = 0o600  # the daemon reads and writes its own files
_MODE = re.compile(r"0?[0-7]{3}")
_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,127}")


def check_name(value: object) -> str:
    """A name of a controller, volume or group: safe in a path, a URL and a command line."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in {".", ".."}:
        raise ValueError(
            f"{toml(value)} is not a name; expected 1 to 128 letters, digits, '.', '_' or '-',"
            " not '-' first"
        )
    return value


def check_volume_size(value: object) -> int:
    """Bytes of a volume."""
    size = parse_size(value)
    unit, most = limits.VOLUME_ALIGNMENT_BYTES, limits.VOLUME_BYTES_MAX
    if size <= 0:
        raise ValueError(f"{toml(value)} is too small for a volume; expected at least {unit}")
    if size > most:
        raise ValueError(f"{toml(value)} is too big; expected at most {most} ({format_size(most)})")
    if size % unit:
        below = size // unit * unit
        nearest = f"{below} or {below + unit}" if below else str(unit)
        raise ValueError(f"{toml(value)} is not a multiple of {unit} bytes; expected {nearest}")
    return size


def check_journal_size(value: object) -> int:
    """Bytes of the journal."""
    size = parse_size(value)
    low, high = limits.JOURNAL_SIZE_BYTES_MIN, limits.JOURNAL_SIZE_BYTES_MAX
    if not low <= size <= high:
        raise ValueError(
            f"{toml(value)} is too {'small' if size < low else 'big'};"
            f" expected {format_size(low)} to {format_size(high)}"
        )
    return size


def check_copy_rate(value: object) -> int:
    """Bytes a second. A copy that is slower than the writes would never end."""
    rate = parse_size(value)
    if rate < limits.COPY_RATE_BYTES_MIN:
        raise ValueError(
            f"{toml(value)} is too slow; copy_rate must be at least"
            f" {format_size(limits.COPY_RATE_BYTES_MIN)}/s"
        )
    return rate


def check_tracked_cuts(value: object) -> int:
    """How many cuts of a volume are remembered for what changed between them; 0: none."""
    most = limits.TRACKED_CUTS_MAX
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(
            f"invalid tracked_cuts: {toml(value)}; expected a number of cuts from 0 to {most}"
        )
    return value


def check_marks_kept(value: object) -> int:
    """How many marks are remembered."""
    least, most = limits.MARKS_KEPT_MIN, limits.MARKS_KEPT_MAX
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(
            f"invalid marks_kept: {toml(value)}; expected a number of marks from {least} to {most}"
        )
    return value


def check_mark_every(value: object) -> float:
    """From one mark of a group to the next."""
    seconds = parse_duration(value)
    if not limits.MARK_EVERY_SECONDS_MIN <= seconds <= limits.EXPECTED_SECONDS_MAX:
        raise ValueError(f'{toml(value)} is not between 1 s and 10 years; write for example "60s"')
    return seconds


def check_clone_limit(value: object) -> int:
    """Bytes of changes of a clone."""
    size = parse_size(value)
    if size < limits.CLONE_LIMIT_BYTES_MIN:
        raise ValueError(
            f"{toml(value)} is too small; clone_limit must be at least"
            f" {format_size(limits.CLONE_LIMIT_BYTES_MIN)}"
        )
    return size


def check_scrub_rate(value: object) -> int:
    """Bytes a second of each image. A scrub that is slower takes years for a disk."""
    rate = parse_size(value)
    if rate < limits.COPY_RATE_BYTES_MIN:
        raise ValueError(
            f"{value!r} is too slow; the rate of a scrub must be at least"
            f" {format_size(limits.COPY_RATE_BYTES_MIN)}/s"
        )
    return rate


def check_hold_max(value: object) -> float:
    """Seconds that writes may be held."""
    most = limits.HOLD_SECONDS_MAX
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ValueError(
            f"invalid hold_max: {toml(value)}; expected seconds, more than 0 and at most {most:g}"
            " (the NBD client of Linux gives up later)"
        )
    return float(value)


def check_disk_timeout(value: object) -> float:
    """Seconds that a disk may take to answer."""
    low, high = limits.DISK_TIMEOUT_SECONDS_MIN, limits.DISK_TIMEOUT_SECONDS_MAX
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{toml(value)} is no such time; expected {low:g} to {high:g} seconds")
    return float(value)


def check_duration(value: object) -> float:
    """A time that is expected of what people or their scripts do."""
    seconds = parse_duration(value)
    if not limits.EXPECTED_SECONDS_MIN <= seconds <= limits.EXPECTED_SECONDS_MAX:
        raise ValueError(f'{toml(value)} is not between 1 s and 10 years; write for example "8h"')
    return seconds


def check_delay(value: object) -> float:
    """How long a delayed secondary stays behind."""
    seconds = parse_duration(value)
    if not limits.DELAY_SECONDS_MIN <= seconds <= limits.DELAY_SECONDS_MAX:
        raise ValueError(f'{toml(value)} is not between 1 s and 7 days; write for example "30m"')
    return seconds


def check_tcp(value: object) -> TcpAddress:
    """Where to listen; a Unix socket for the same is there already."""
    address = parse_address(value)
    if not isinstance(address, TcpAddress):
        raise ValueError(f'{toml(value)} is not a TCP address; expected "tcp:HOST:PORT"')
    return address


def absolute_path(value: object, base: Path) -> Path:
    """A path, made absolute: a relative one starts at `base`, the directory of the file."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f'{toml(value)} is not a path; write for example "/srv/a/data.img"')
    if "\0" in str(value):
        raise ValueError(f"{str(value)!r} is not a path: it contains a NUL character; remove it")
    return Path(os.path.normpath(base / value))


def check_listen(value: object, base: Path) -> Address:
    """`unix:PATH`, made absolute, or `tcp:HOST:PORT`."""
    address = parse_address(value)
    if isinstance(address, UnixAddress):
        return UnixAddress(str(check_socket(address.path, base)))
    return _fixed_port(address, value)


def check_host_port(value: object) -> TcpAddress:
    """`HOST:PORT`."""
    return _fixed_port(parse_host_port(value), value)


def check_socket(value: object, base: Path) -> Path:
    """The path of a Unix socket, made absolute."""
    path = absolute_path(value, base)
    if (length := len(os.fsencode(path))) > limits.SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"{str(path)!r} is too long for a Unix socket ({length} bytes);"
            f" expected at most {limits.SOCKET_PATH_BYTES_MAX}"
        )
    return path


def check_mode(value: object) -> int:
    """The mode of a file, as chmod takes it: octal digits."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError(
            f'{toml(value)} is not a mode; expected three octal digits, such as "0660"'
        )
    mode = int(value, 8)
    if mode & _OWNER != _OWNER:
        raise ValueError(
            f"{toml(value)} takes access from the daemon itself; expected 6 or 7 first,"
            ' as in "0660"'
        )
    return mode


def _fixed_port(address: TcpAddress, value: object) -> TcpAddress:
    if address.port == 0:  # any free port: clients could not know which
        raise ValueError(f"{toml(value)}: port 0 is out of range; expected 1 to 65535")
    return address
