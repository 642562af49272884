"""Files that programs use on their machine: part of "the same program" for ``--resume``.

A program travels as bytes, and its digest covers them.  Other files stay on the machine: a command
on the ``PATH``, the interpreter of a script, a file named by an argument, the module of a function
that is pickled by name.  ``digest_environment`` returns a digest of all of these, so that a run
does not go on with finished work of another version of them.

1. ``add_command`` takes the words that may name a file: the script where it is a command, each
   argument, the words within an argument (``sh -c "sort | uniq"``), and those of the job's
   ``setup``.  Of the last two only programs count: such words may name files that are written.
2. ``add_word`` looks a word up on the ``PATH`` that the program gets.
3. ``add_file`` digests the content of the file, and of the interpreter named by its ``#!`` line.
4. ``_find_modules`` finds the modules that a pickled function needs by name.

Files are looked up on the driver's machine.  Programs started and modules imported by a program
itself do not count, nor do files of other machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import shlex
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ray_mr.child.languages import LANGUAGES
from ray_mr.errors import RayMrError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from ray_mr.jobs.job import Job
    from ray_mr.jobs.program import Program

READ_BYTES = 1 << 20
MAX_DIGEST_BYTES = 256 << 20
"""Maximum bytes of a file that is digested; of a larger one, size and modification time count."""
MAX_INTERPRETERS = 4
"""Maximum depth of interpreters that are scripts; the kernel follows no more."""
MAX_SHEBANG_BYTES = 512
LOCALE = ("LANG", "LANGUAGE", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "TZ")
"""Variables that change how programs sort, match, and format text, numbers and dates."""
_BUILT_IN = frozenset({*sys.stdlib_module_names, "__main__", "cloudpickle", "ray_mr"})


def digest_environment(job: Job, program: Program | str | None) -> str:
    """Return a digest of the files a program uses on this machine; empty for a built-in."""
    if program is None or isinstance(program, str) or not program.language:
        return ""
    files = _FileDigests(_make_search_path(job))
    files.add_command(job, program)
    if program.function:
        for module in _find_modules(program):
            files.add_file(module)
    for file in program.files:
        if file.name == program.entry and program.language == "binary":
            files.add_interpreter(file.content[:MAX_SHEBANG_BYTES], 0)
    return files.digest()


def digest_locale(job: Job) -> str:
    """Return a digest of the variables in ``LOCALE``."""
    words = {name: job.env.get(name, os.environ.get(name, "")) for name in LOCALE}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


def _make_search_path(job: Job) -> str:
    interpreters = [choice for choice in (job.python, job.node) if choice and "/" in choice]
    folders = [
        str(Path(path, "bin") if Path(path).is_dir() else Path(path).parent)
        for path in interpreters
    ]
    return os.pathsep.join([*folders, job.env.get("PATH", os.environ.get("PATH", os.defpath))])


def _split_words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quotation that does not end
        return text.split()


def _name_interpreter(job: Job, program: Program) -> str:
    language = LANGUAGES[program.language]
    choice = {"python": job.python, "javascript": job.node}.get(program.language)
    try:
        return language.find_interpreter(choice) if choice else next(iter(language.interpreter), "")
    except RayMrError:  # not on this machine
        return choice or ""


def _find_modules(program: Program) -> Iterator[str]:
    """Yield the files of modules that a pickled function needs by name, other than Python's own."""
    names: set[str] = set()
    for file in program.files:
        if file.name == program.entry:
            names |= _find_strings(file.content)
    for name in sorted(names):
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and name.partition(".")[0] not in _BUILT_IN:
            yield path


def _find_strings(pickled: bytes) -> set[str]:
    """Return all strings in a pickle; one opcode has a module and a name with a space between."""
    strings = {arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)}
    return strings | {arg.partition(" ")[0] for arg in strings}


class _FileDigests:
    """Digests of files, by path.

    Args:
        search_path: ``PATH`` on which commands are looked up.
    """

    def __init__(self, search_path: str) -> None:
        self._search_path = search_path
        self._digests: dict[str, str] = {}

    def digest(self) -> str:
        """Return a digest of all of them; empty if there are none."""
        if not self._digests:
            return ""
        text = json.dumps(sorted(self._digests.values()))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def add_command(self, job: Job, program: Program) -> None:
        """Add the files that a program's command line and the job's ``setup`` name."""
        for word in (_name_interpreter(job, program), program.entry if program.installed else ""):
            self.add_word(word)
        for argument in program.arguments:
            self.add_word(argument)
            self.add_word(argument.partition("=")[2])
        for text in (*program.arguments, job.setup or ""):
            for word in _split_words(text):
                self.add_word(word, program=True)

    def add_word(self, word: str, *, program: bool = False) -> None:
        """Add the file that a word names: an absolute path, or a command on the ``PATH``.

        Args:
            word: Any word.
            program: Ignore files that are not executable.
        """
        if not word or "\0" in word:
            return
        path = word if word.startswith("/") else None
        if path is None and "/" not in word:
            path = shutil.which(word, path=self._search_path)
        if path is not None and not (program and not os.access(path, os.X_OK)):
            self.add_file(path)

    def add_file(self, path: str, depth: int = 0) -> None:
        """Add a file, and its interpreter if it is a script."""
        if path in self._digests:
            return
        try:
            with _open_regular(path) as file:
                head = file.read(MAX_SHEBANG_BYTES)
                self._digests[path] = _digest_content(head, file)
        except OSError:
            return
        self.add_interpreter(head, depth)

    def add_interpreter(self, head: bytes, depth: int) -> None:
        """Add the interpreter of a script that begins with ``head``, such as ``#!/bin/sh``."""
        if not head.startswith(b"#!") or depth >= MAX_INTERPRETERS:
            return
        words = os.fsdecode(head[2:].partition(b"\n")[0]).split()
        for word in words[:1]:
            self.add_file(word, depth + 1)
        if words and Path(words[0]).name == "env":
            names = [each for each in words[1:] if "=" not in each and not each.startswith("-")]
            if names and (path := shutil.which(names[0], path=self._search_path)):
                self.add_file(path, depth + 1)


def _open_regular(path: str) -> BinaryIO:
    """Open a regular file; refuse a pipe or device without waiting for it.

    Raises:
        OSError: It cannot be read, or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(path)
    return os.fdopen(descriptor, "rb")


def _digest_content(head: bytes, file: BinaryIO) -> str:
    """Return a digest of a file, of which ``head`` is read already."""
    status = os.fstat(file.fileno())
    if status.st_size > MAX_DIGEST_BYTES:
        return f"{status.st_size} {status.st_mtime_ns}"
    sha = hashlib.sha256(head)
    while data := file.read(READ_BYTES):
        sha.update(data)
    return sha.hexdigest()
