"""One virtual machine for the tests of a module: booting takes longer than most of them.

A wider scope might outlive the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vm.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(tmp_path_factory.mktemp("machine")) as booted:
        yield booted
