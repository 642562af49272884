"""Every error ray_mr raises, in one tree, with the exit code each ends a command with.

    RayMrError                      1  a defect of ours
      JobError                      2  the job is wrong: file, option, script, inputs
      CredentialsError              3
        CredentialsExpired          3  they were good once: worth a look for newer ones
      StoreError                    4  S3, disk: permission, missing bucket, endpoint down
        StoreUnavailable            4  the same, but worth another try
        StagedLost                  4  an object that was being written is no longer there
      DataError                     5  an input object is at fault
        ObjectChanged               5  not the object that was listed
        CorruptObject               5  does not decode to its end
        RefusedObject               5  an archive, a format that is not read, or a bomb
        UnsafeKey                   5  its key cannot be a path
        ObjectDenied                4  the store refuses this object, not the others
          ObjectArchived            4  it has to be restored first
        TooManyBadRecords           5
      ChildError                    6  the user's program is at fault
        ChildNotStarted             6  no interpreter, script does not load
        ChildRaised                 6  its function raised an exception
        ChildCrashed                6  signal or exit code
          ChildKilled               6  SIGKILL, which is often the kernel, out of memory
        ChildTimeout                6  ran, or was silent, for too long
        ChildProtocol               6  did not speak the harness's protocol
      EngineError                   7  Ray
        WorkerLost                  7  a worker, node or block is gone: worth another try
          OutOfMemory               7  ended for it: worth another try with more
        NoCapacity                  7  the run cannot be placed
      LedgerError                   8  counts do not balance
      Interrupted                 130
        DeadlinePassed            130

Nothing but exception classes and words of theirs lives here.  They cross processes: each is rebuilt
from its ``args`` alone, and its message never holds a secret or a whole record.
"""

from __future__ import annotations

import traceback
from typing import ClassVar


class RayMrError(Exception):
    """Base of all errors of ray_mr.

    Args:
        message: What went wrong, naming the input, file or option.
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
        """What IPython shows: our words; for a defect of ours, the way to it too."""
        if type(self) is RayMrError:
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}"]


PATH_HINT = "a job file's paths are relative to its folder, a command's to where it is given"
"""Advice on a path at which nothing is."""
PERMISSION_HINT = "see its permissions and those of its folder"
"""Advice on a path that the system refuses."""
RESTORE_HINT = "restore it first (aws s3api restore-object), or leave it out of the inputs"
"""Advice on an object that is archived."""
CHANGING_INPUT_HINT = "run again when nobody writes to it"
"""Advice on an input that changes."""
STDERR_TAIL_MARK = "; its last words:"
"""Ends the first line of a message whose other lines are the end of a program's stderr."""


def summarize_message(message: str) -> str:
    """A message in one line: its first, with a program's very last line on stderr."""
    first, *rest = message.splitlines() or [""]
    return f"{first} {rest[-1].strip()}" if rest and first.endswith(STDERR_TAIL_MARK) else first


class JobError(RayMrError):
    """The job cannot be run as it is written."""

    exit_code = 2


class CredentialsError(RayMrError):
    """Credentials are missing, unreadable or expired."""

    exit_code = 3


class CredentialsExpired(CredentialsError):
    """The store says that the credentials were good once."""


class StoreError(RayMrError):
    """A store refused, or is not there."""

    exit_code = 4


class StoreUnavailable(StoreError):
    """A store did not answer properly; the same request may succeed later."""

    retryable = True


class StagedLost(StoreError):
    """What was prepared for an object is no longer there, and the object is not there either."""


class DataError(RayMrError):
    """An input object is at fault; other inputs are not affected."""

    exit_code = 5


class ObjectChanged(DataError):
    """The object is not, or no longer, the one that was listed."""


class CorruptObject(DataError):
    """The object does not decode to its end."""


class RefusedObject(DataError):
    """The object is in a format that is not read, or expands beyond what the job allows."""


class UnsafeKey(DataError):
    """The key cannot be used as a path below the working folder."""


class ObjectDenied(DataError):
    """The store refuses this very object; others may be readable."""

    exit_code = 4


class ObjectArchived(ObjectDenied):
    """The object is in an archive, and has to be restored before it can be read."""


class TooManyBadRecords(DataError):
    """More records were set aside than the job allows."""


class ChildError(RayMrError):
    """The user's program failed."""

    exit_code = 6


class ChildNotStarted(ChildError):
    """The program could not be started, or its script does not load."""


class ChildRaised(ChildError):
    """The user's function raised an exception."""


class ChildCrashed(ChildError):
    """The program ended by a signal or with a non-zero exit code."""

    retryable = True


class ChildKilled(ChildCrashed):
    """The program was ended by SIGKILL: by the kernel, for its memory, or by somebody."""


class ChildTimeout(ChildError):
    """The program ran, or made no progress, for longer than the job allows."""

    retryable = True


class ChildProtocol(ChildError):
    """What came from a harness is not a frame of the child protocol."""


class EngineError(RayMrError):
    """The engine that runs the tasks failed."""

    exit_code = 7


class WorkerLost(EngineError):
    """A worker, a node or a block is gone; the work can be done again."""

    retryable = True


class OutOfMemory(WorkerLost):
    """A worker was ended because its machine had no more memory."""


class NoCapacity(EngineError):
    """The run asks for more than the engine will ever have."""


class LedgerError(RayMrError):
    """What went in does not equal what came out."""

    exit_code = 8


class Interrupted(RayMrError):
    """The user or the system asked the run to stop."""

    exit_code = 130


class DeadlinePassed(Interrupted):
    """The run took longer than the job allows."""


def escape_newlines(name: str) -> str:
    """A name, such as a key, as it can stand in a line."""
    return name.replace("\r", "\\r").replace("\n", "\\n")
