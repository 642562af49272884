"""Table of engines, by the name that ``--engine`` takes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ray_mr.errors import JobError

if TYPE_CHECKING:
    from ray_mr.engines.contract import Engine


def engine_named(name: str) -> Engine:
    """Return a new engine.

    Raises:
        JobError: No engine has that name.
    """
    if name not in ENGINES:
        raise JobError(f"no engine {name!r}: there are {', '.join(ENGINES)}")
    return ENGINES[name]()


def _local() -> Engine:
    from ray_mr.engines.local import LocalEngine

    return LocalEngine()


def _ray() -> Engine:
    # In a notebook Ray warns about missing widgets when it is imported; ray_mr uses none.
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    from ray_mr.engines.ray.engine import RayEngine

    return RayEngine()


ENGINES = {"ray": _ray, "local": _local}
