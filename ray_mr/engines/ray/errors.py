"""Translation of Ray's exceptions into ray_mr's.  No other module handles ``ray.exceptions``.

1. ``get_object`` reads an object of Ray's store, with a timeout.
2. ``translate_errors`` wraps any other call that Ray may fail.

===========================================  ==========================  ===========
Ray's exception                              ray_mr's                    tried again
===========================================  ==========================  ===========
a task raised a ``RayMrError``               that error                  as it says
an object is lost, or late                   ``BlockLostError``          yes
a worker, actor or node died                 ``WorkerLost``              yes
a worker was killed for its memory           ``OutOfMemory``             yes
a task raised anything else                  ``RayMrError`` (a bug)      no
any other exception of Ray                   ``EngineError``             no
===========================================  ==========================  ===========
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import ray
from ray import exceptions as rex

from ray_mr.errors import EngineError, OutOfMemory, RayMrError, WorkerLost

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_TIMEOUT_S = 120.0
"""Timeout in seconds for an object, after which it counts as lost; Ray can wait forever."""
WORKER_LOSSES = (
    rex.RayActorError,
    rex.WorkerCrashedError,
    rex.NodeDiedError,
    rex.TaskCancelledError,
    rex.LocalRayletDiedError,
)
"""Exceptions of Ray for a process that has ended."""


class BlockLostError(WorkerLost):
    """An object is lost."""


def get_object(ref: Any) -> Any:
    """Return the value of an object.

    Raises:
        RayMrError: The object is lost or late, or stands for the error of its task.
    """
    with translate_errors():
        return ray.get(ref, timeout=READ_TIMEOUT_S)


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise Ray's exceptions as ray_mr's; see the table above."""
    try:
        yield
    except rex.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayMrError):
            raise cause from None
        if isinstance(cause, (rex.ObjectLostError, rex.OutOfMemoryError, *WORKER_LOSSES)):
            # An argument that was lost with its node carries the end of the task that made it.
            raise BlockLostError("a block is lost") from error
        if isinstance(cause, rex.RayError):
            raise EngineError(f"Ray: {type(cause).__name__}: {cause}") from error
        raise RayMrError(f"a bug in ray_mr, in a task: {error}") from error
    except (rex.ObjectLostError, rex.ObjectFetchTimedOutError) as error:
        raise BlockLostError(f"a block is lost: {type(error).__name__}") from error
    except rex.OutOfMemoryError as error:
        raise OutOfMemory("Ray ended a worker: out of memory") from error
    except WORKER_LOSSES as error:
        first = (str(error).splitlines() or [""])[0]
        raise WorkerLost(f"a Ray worker has died ({type(error).__name__}): {first}") from error
    except rex.GetTimeoutError as error:
        raise BlockLostError(f"a block did not arrive within {READ_TIMEOUT_S:.0f} s") from error
    except rex.RayError as error:
        raise EngineError(f"Ray: {type(error).__name__}: {error}") from error
