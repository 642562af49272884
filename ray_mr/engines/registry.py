"""Table of engines, by the name that ``--engine`` takes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ray_mr.errors import JobError

if TYPE_CHECKING:
    from ray_mr.engines.contract import Engine


def engine_named(name: str) -> Engine:
    """A new engine.

    Raises:
        JobError: There is none of that name.
    """
    if name not in ENGINES:
        raise JobError(f"no engine {name!r}: there are {', '.join(ENGINES)}")
    return ENGINES[name]()


def _local() -> Engine:
    from ray_mr.engines.local import LocalEngine

    return LocalEngine()


def _ray() -> Engine:
    # In a notebook Ray asks for widgets as it is imported; we have no use for them.
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    from ray_mr.engines.ray.engine import RayEngine

    return RayEngine()


ENGINES = {"ray": _ray, "local": _local}
