"""What a client's calls raise, with fields: a program that handles an error should not parse it."""

from __future__ import annotations

import errno
import os

from ..nbd import constants as c

_OPTION_ERRORS = {value: name for name, value in vars(c).items() if name.startswith("REP_ERR_")}
_COMMANDS = {
    c.CMD_READ: "READ",
    c.CMD_WRITE: "WRITE",
    c.CMD_FLUSH: "FLUSH",
    c.CMD_TRIM: "TRIM",
    c.CMD_WRITE_ZEROES: "WRITE_ZEROES",
    c.CMD_BLOCK_STATUS: "BLOCK_STATUS",
}


class RequestError(OSError):
    """The server answered a request with an error; the connection goes on.

    `errno` and `name` ("ENOSPC") say which, `command` ("WRITE"), `offset`, `length` and `export`
    of what request; `text` is what the server said of it, "" if nothing.
    """

    def __init__(
        self, number: int, command: int, offset: int, length: int, export: str, text: str = ""
    ) -> None:
        self.name = errno.errorcode.get(number, str(number))
        self.command = _COMMANDS[command]
        self.offset = offset
        self.length = length
        self.export = export
        self.text = text
        about = f"{self.command} of {length} bytes at {offset} of export {export!r}"
        said = f": {text}" if text else ""
        super().__init__(number, f"{os.strerror(number)}: {about}{said}")


class ExportRefusedError(ConnectionError):
    """The server did not give the export. `code` is its REP_ERR_* number, `name` the name of that
    ("REP_ERR_UNKNOWN"), `text` what the server said.
    """

    def __init__(self, export: str, code: int, text: str) -> None:
        super().__init__(f"export {export!r}: {text}")
        self.export = export
        self.code = code
        self.name = _OPTION_ERRORS.get(code, str(code))
        self.text = text
