"""Every client with every feature, and all of them under load: as docs/interop.md says.

`python -m tests.support.matrix.page` writes that page anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.daemon import ROOT
from tests.support.matrix import kernel
from tests.support.matrix.features import FEATURES, UNDER_LOAD
from tests.support.matrix.page import CLIENTS, PAGE, documented, notes, of_kernel
from tests.support.matrix.rig import served
from tests.support.matrix.under_load import measure

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.matrix.features import Client


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.key)
def test_a_client_does_what_the_page_says(client: Client, tmp_path: Path) -> None:
    page = documented()
    with served(tmp_path, [client]) as rig:
        measured = {feature: client.measure(feature, rig) for feature in FEATURES}
    assert measured == {feature: page[client.key, feature] for feature in FEATURES}


def test_clients_under_load_do_what_the_page_says(tmp_path: Path) -> None:
    page = documented()
    with served(tmp_path, CLIENTS) as rig:
        for feature in UNDER_LOAD:
            measured = measure(rig, feature)
            assert measured == {client.key: page[client.key, feature] for client in CLIENTS}


def test_the_page_says_why_a_client_lacks_something() -> None:
    text = PAGE.read_text()
    assert [line for line in (*notes(), *of_kernel()) if line not in text] == []


def test_tests_of_the_kernels_driver_are_there() -> None:
    assert [path for path in kernel.CELLS.values() if not (ROOT / path).exists()] == []


def test_each_feature_of_the_kernels_driver_is_covered_or_lacking() -> None:
    lacking = [feature for which in kernel.LACKS.values() for feature in which]
    assert sorted([*kernel.CELLS, *lacking]) == sorted((*FEATURES, *UNDER_LOAD))
