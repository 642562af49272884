"""The short form of the soak test; ``make soak`` runs the long one."""

from __future__ import annotations

import pytest

from soak import soaking


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_short_soak_result_equals_truth() -> None:
    """Requests fail; programs, workers, a reducer and the driver are killed.

    Two of 200 objects are bad; both are named, and nothing is lost, doubled or left over.
    """
    with soaking(objects=200, seconds=12, bad=0.01, seed=7) as soak:
        outcome = soak.run()
    assert outcome.killed["driver"] == 1
    assert outcome.killed["child"] >= 1
    assert sum(outcome.faults.values()) >= 1
    assert outcome.report["totals"]["failed"] == 2
