"""A drill over HTTP, without a CMD: clones of a new cut, an outcome, and no clones."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.daemon import Daemon

ID, NAME = "00000000000000d1", "drill"


def ended_drill(daemon: Daemon, targets: Sequence[str], exit_code: int) -> str:
    """The id of the cut, which the volumes are still at."""

    def post(path: str, **body: object) -> object:
        code, answer = daemon.request("POST", path, {"targets": list(targets), **body})
        assert code == 200, answer
        return answer.get("cut")

    cut = str(post("/v1/suspend"))
    post("/v1/clones", cut=cut, name=NAME)
    post("/v1/drills", cut=cut, clone=NAME, id=ID, exit_code=exit_code, took_ms=1500)
    post("/v1/clones/drop", name=NAME)
    return cut
