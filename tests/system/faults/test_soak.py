"""The soak in its short form; ``make soak`` runs the long one."""

from __future__ import annotations

import pytest

from soak import soaking


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_short_soak() -> None:
    """Faults of requests, killed programs, workers, a reducer and the driver: equal to the truth.

    With two bad objects of 200, each named; nothing is lost, doubled or left over.
    """
    with soaking(objects=200, seconds=12, bad=0.01, seed=7) as soak:
        told = soak.run()
    assert told.killed["driver"] == 1
    assert told.killed["child"] >= 1
    assert sum(told.faults.values()) >= 1
    assert told.report["totals"]["failed"] == 2
