"""Where duplexctl begins.

An interrupt ends it quietly from the first moment, also while the rest is being imported. Imports
next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys

from duplexd.duplexctl.arguments import wants_json
from duplexd.runtime.descriptors import open_standard

EXIT_INTERRUPTED = 130
_PROBLEM = (
    b'{"type": "urn:duplexd:problem:interrupted", "title": "interrupted", "status": 499,'
    b' "detail": "interrupted by SIGINT", "exit_code": 130}\n'
)


def _end(*_: object) -> None:
    try:
        if wants_json(sys.argv[1:]):
            os.write(1, _PROBLEM)
    # an exception, also one of that, would be seen, or lost, by whatever is being imported
    finally:
        os._exit(EXIT_INTERRUPTED)


def main() -> None:
    """Run the process's command line and exit."""
    open_standard()
    # Not if it is ignored, as in the background
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _end)
    from duplexd.duplexctl import cli

    try:
        cli.main(
            (lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) if ours else None
        )
    except KeyboardInterrupt:  # after the command had ended
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
