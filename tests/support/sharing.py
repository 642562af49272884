"""How workers share the tests: one by one, less those for which something dear is made once."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TOGETHER = {
    "tests/system/image/test_image_runs.py": "an image",
    "tests/system/image/test_image_tasks.py": "an image",
    "tests/system/image/test_container.py": "the machine's memory",
    "tests/system/test_cluster.py": "two nodes",
    "tests/system/bad_input/test_bad_input.py"
    "::test_mistake_gets_its_message_and_leaves_nothing[clusters-": "two machines",
    "tests/system/faults/test_fault_silence.py": "a network",
}
"""Beginnings of the ids of tests that stay in one worker, and what they have in common."""


def share(nodeid: str) -> str:
    """What goes to a worker as one: a test, or files that stay together."""
    return next((what for start, what in TOGETHER.items() if nodeid.startswith(start)), nodeid)


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A worker that is free has the next test, or the next of the files that stay together.

    xdist's own groups (``--dist loadgroup``) do nothing with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)
