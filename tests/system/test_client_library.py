"""docs/python-api.md: every example, one after the other, with three real daemons."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

import duplexd.client
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.cluster import Cluster
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "python-api.md"


def examples(page: str) -> list[tuple[int, str]]:
    """(line, code) of each block of Python."""
    return [
        (page.count("\n", 0, found.start(1)), found[1])
        for found in re.finditer(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, {"alpha": ["data"], "beta": ["wal"], "gamma": ["log"]}) as started:
        started.write_groups({"db": started.members}, HOLD_SECONDS_MAX)
        yield started


# The page's holds are as short as holds should be; a machine that tests run on may sleep for
# longer.
PATIENT = {
    "hold_max=2.0": "hold_max=9.0",
    "hold.renew(1.0)": "hold.renew(9.0)",
    "hold_max=0.2": "hold_max=4.0",
}


async def run(code: str, cluster: Cluster, line: int, names: dict[str, Any]) -> None:
    for short, long in PATIENT.items():
        code = code.replace(short, long)
    code = code.replace("/etc/duplexd/groups.toml", str(cluster.directory / "groups.toml"))
    for name, socket in cluster.sockets().items():
        code = code.replace(f"/run/duplexd/{name}/control.sock", str(socket))
    assert "/run/" not in code
    compiled = compile("\n" * line + code, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    work = eval(compiled, names)  # noqa: S307 - the page is ours
    if inspect.iscoroutine(work):
        await work


async def test_every_documented_example_works(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    found = examples(PAGE.read_text())
    assert len(found) > 6
    names: dict[str, Any] = {}
    for line, code in found:
        await run(code, cluster, line, names)
    out = capsys.readouterr().out
    assert re.search(r"^alpha is at \d+$", out, re.MULTILINE)
    assert "the hold of db was lost" in out


async def test_the_example_of_the_package_docstring_works(cluster: Cluster) -> None:
    text = textwrap.dedent((duplexd.client.__doc__ or "").partition("Example:\n")[2])
    names: dict[str, Any] = {"Client": duplexd.client.Client}
    await run(text, cluster, 0, names)
    assert names["result"].verdict == "consistent"


def test_every_public_method_is_documented() -> None:
    page = PAGE.read_text()
    for name, method in vars(duplexd.client.Client).items():
        if not name.startswith("_") and inspect.isfunction(method) and name != "release":
            assert re.search(rf"client\.{name}\(", page), name
        assert name.startswith("_") or inspect.getdoc(method), name
