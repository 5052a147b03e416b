"""Configurations that do not fit what the journal knows of a volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from duplexd.config.daemon_file import VolumeConfig
from duplexd.core import pair_states
from duplexd.core.pair import PairRecord
from duplexd.core.rollback_state import DONE, Rollback
from duplexd.engine.opening import why_refused
from duplexd.limits import EngineLimits

SIZE = 1 << 20


def configured(secondary: bool) -> VolumeConfig:
    other = Path("/b") if secondary else None
    return VolumeConfig.model_construct(size=SIZE, primary=Path("/a"), secondary=other, mode="sync")


@pytest.mark.parametrize("backup", ["", "2026-11-29"], ids=["rollback", "restore"])
def test_a_volume_that_is_half_way_gets_no_secondary(backup: str) -> None:
    known = PairRecord(1, "data", SIZE, EngineLimits())
    assert known.state == pair_states.SIMPLEX
    assert why_refused("data", configured(True), known) == ""
    known.rollback = Rollback("r1", "c1", 7, backup=backup)
    assert "half-way through a restore or rollback" in why_refused("data", configured(True), known)
    assert why_refused("data", configured(False), known) == ""
    known.state = pair_states.SUSPENDED  # it has one, at its cut
    assert why_refused("data", configured(True), known) == ""
    known.state, known.rollback = pair_states.SIMPLEX, known.rollback._replace(ended=DONE)
    assert why_refused("data", configured(True), known) == ""
