"""Errors that ray_mr raises, and the exit code that each ends a command with.

    RayMrError                      1  a bug in ray_mr
      JobError                      2  the job: file, option, script, inputs
      CredentialsError              3  missing, unreadable or refused credentials
        CredentialsExpired          3  expired: newer ones may exist
      StoreError                    4  S3 or disk: permission, missing bucket, full disk
        StoreUnavailable            4  a temporary failure: retried
        StagedLost                  4  an upload in progress has disappeared
      DataError                     5  a single input
        ObjectChanged               5  not the object that was listed
        CorruptObject               5  does not decode to its end
        RefusedObject               5  an archive, an unsupported format, or expands too far
        UnsafeKey                   5  its key cannot be a path
        ObjectDenied                4  the store refuses this object, but not others
          ObjectArchived            4  it has to be restored first
        TooManyBadRecords           5  more unreadable records than the job allows
      ChildError                    6  the user's program
        ChildNotStarted             6  no interpreter, or the script does not load
        ChildRaised                 6  its function raised an exception
        ChildCrashed                6  a signal, or a non-zero exit code: retried
          ChildKilled               6  SIGKILL, often because the machine is out of memory
        ChildTimeout                6  took too long, or made no progress for too long
        ChildProtocol               6  its output violates the harness's protocol
      EngineError                   7  Ray
        WorkerLost                  7  a worker, node or block is lost: retried
          OutOfMemory               7  Ray ended a worker to free memory: retried with more
        NoCapacity                  7  the run needs more than the cluster has
      LedgerError                   8  the counts of the ledger do not balance
      Interrupted                 130  Ctrl-C, SIGTERM, SIGHUP
        DeadlinePassed            130  the job's deadline has passed

An error has a message, which names the input, file or option, and a hint, which says what to do.
Errors are sent between processes: each is rebuilt from its ``args``.  A message never contains a
secret or a whole record.
"""

from __future__ import annotations

import traceback
from typing import ClassVar


class RayMrError(Exception):
    """Base class of all errors that ray_mr raises.

    Args:
        message: What happened to which input, file or option.
        hint: What the user can do about it.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows: the message, and for a bug the traceback, too."""
        if type(self) is RayMrError:
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}"]


PATH_HINT = "a job file's paths are relative to its folder, a command's to where it is given"
"""Hint for a path that does not exist."""
PERMISSION_HINT = "see its permissions and those of its folder"
"""Hint for a path without permission."""
RESTORE_HINT = "restore it first (aws s3api restore-object), or leave it out of the inputs"
"""Hint for an archived object."""
CHANGING_INPUT_HINT = "run again when no other program writes to it"
"""Hint for an input that changes during the run."""
STDERR_TAIL_MARK = "; the end of its stderr:"
"""End of the first line of a message whose other lines are the last of a program's stderr."""


def summarize_message(message: str) -> str:
    """Return the first line of a message, and the last line of a program's stderr after it."""
    first, *rest = message.splitlines() or [""]
    return f"{first} {rest[-1].strip()}" if rest and first.endswith(STDERR_TAIL_MARK) else first


class JobError(RayMrError):
    """The job is invalid, or cannot be run."""

    exit_code = 2


class CredentialsError(RayMrError):
    """Credentials are missing, unreadable or expired."""

    exit_code = 3


class CredentialsExpired(CredentialsError):
    """The store reports that the credentials have expired."""


class StoreError(RayMrError):
    """A store refused a request, or cannot be reached."""

    exit_code = 4


class StoreUnavailable(StoreError):
    """A store failed temporarily; the same request may succeed later."""

    retryable = True


class StagedLost(StoreError):
    """An upload in progress has disappeared, and its object does not exist either."""


class DataError(RayMrError):
    """A single input is bad; other inputs are not affected."""

    exit_code = 5


class ObjectChanged(DataError):
    """The object is not the one that was listed."""


class CorruptObject(DataError):
    """The object does not decode to its end."""


class RefusedObject(DataError):
    """The object has an unsupported format, or expands further than the job allows."""


class UnsafeKey(DataError):
    """The key cannot be used as a path below the working folder."""


class ObjectDenied(DataError):
    """The store refuses this object; others may be readable."""

    exit_code = 4


class ObjectArchived(ObjectDenied):
    """The object is archived, and has to be restored before it can be read."""


class TooManyBadRecords(DataError):
    """More records were set aside as unreadable than the job allows."""


class ChildError(RayMrError):
    """The user's program failed."""

    exit_code = 6


class ChildNotStarted(ChildError):
    """The program cannot be started, or its script does not load."""


class ChildRaised(ChildError):
    """The user's function raised an exception."""


class ChildCrashed(ChildError):
    """The program ended with a signal or a non-zero exit code."""

    retryable = True


class ChildKilled(ChildCrashed):
    """The program ended with SIGKILL, often sent by the kernel when memory runs out."""


class ChildTimeout(ChildError):
    """The program took longer, or made no progress for longer, than the job allows."""

    retryable = True


class ChildProtocol(ChildError):
    """The output of a harness violates the child protocol."""


class EngineError(RayMrError):
    """The engine that runs the tasks failed."""

    exit_code = 7


class WorkerLost(EngineError):
    """A worker, a node or a block is lost; the attempt can be repeated."""

    retryable = True


class OutOfMemory(WorkerLost):
    """A worker was ended because its machine was out of memory."""


class NoCapacity(EngineError):
    """The run needs more than the engine can ever provide."""


class LedgerError(RayMrError):
    """The ledger does not balance: inputs and results do not add up."""

    exit_code = 8


class Interrupted(RayMrError):
    """The user or the system stopped the run."""

    exit_code = 130


class DeadlinePassed(Interrupted):
    """The run took longer than the job's deadline."""


def escape_newlines(name: str) -> str:
    """Escape the newlines of a name, such as a key, for a message of one line."""
    return name.replace("\r", "\\r").replace("\n", "\\n")
