"""The program that daemons are forked from: everything is imported, so that a start takes 50 ms.

A line of JSON on stdin, a line of JSON on stdout:

    {"start": CONFIG, "traced": true, "fault": null}    the number of the new process
    {"ended": PID}                                      its exit status; asked once it has ended
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from duplexd import limits
from tests.support.system_calls import tracer
from tests.support.system_calls.limits import JOURNAL_BYTES, LIMITS

limits.JOURNAL_SIZE_BYTES_MIN = JOURNAL_BYTES  # before those who read it are imported

from duplexd.api import models  # noqa: E402
from duplexd.daemon import checking, process  # noqa: E402
from duplexd.daemon.program import main  # noqa: E402

PRELOADED = (checking, models)


def serve() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = start(request)
        else:
            # the tracer hears of it first, so this may have to wait
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    """Fork a daemon."""
    pid = os.fork()
    if pid == 0:
        become(Path(request["start"]), request)
    return pid


def become(config: Path, request: dict[str, Any]) -> None:
    """Be the daemon. Does not return."""
    log = os.open(config.parent / "daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(config.parent)
    try:
        if request["traced"]:
            fault = request["fault"]
            place = fault and tracer.Fault(tracer.Place(*fault[:4]), fault[4])
            tracer.begin(config.parent, place)
        sys.argv[1:] = ["run", "--config", str(config)]
        main()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 1)
    except BaseException as error:  # noqa: BLE001  the test looks for it
        print(f"not started: {error}", file=sys.stderr, flush=True)
        os._exit(70)


if __name__ == "__main__":
    vars(process)["Limits"] = lambda: LIMITS
    serve()
