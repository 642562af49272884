"""What programs use of the machine they run on: part of "the same program" for ``--resume``.

A program travels as bytes, and its digest covers them.  What it finds on the machine does not
travel: a command on the ``PATH``, the interpreter of a script, a file named by an argument, the
module of a function that is pickled by name.  ``facts_of`` gives a digest of all of these, so that
a run does not go on with finished work of another version of them.

1. The script where it is a command, and each argument, may name a command or a file; so may the
   words within an argument (``sh -c "sort | uniq"``) and those of the job's ``setup``, of which
   only programs count: they may name files that are written to.
2. ``_Seen.word`` looks each of them up, on the ``PATH`` that the program gets, and digests the
   content of the file; of a script with ``#!`` its interpreter too.
3. ``_modules`` finds the modules that a pickled function needs by name.

It is looked up on the driver's machine.  What a program itself starts or imports is not seen, nor
what other machines have.
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
"""A larger file counts by its size and modification time: it is data, not a program."""
MAX_INTERPRETERS = 4
"""Interpreters of interpreters that the kernel follows."""
MAX_SHEBANG_BYTES = 512
LOCALE = ("LANG", "LANGUAGE", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "TZ")
"""Variables that decide how programs sort, match, and read and write text, numbers and dates."""
_BUILT_IN = frozenset({*sys.stdlib_module_names, "__main__", "cloudpickle", "ray_mr"})


def facts_of(job: Job, program: Program | str | None) -> str:
    """Return a digest of what the program uses of this machine; empty for a built-in."""
    if program is None or isinstance(program, str) or not program.language:
        return ""
    seen = _Seen(_search_path(job))
    seen.command(job, program)
    if program.function:
        for module in _modules(program):
            seen.file(module)
    for file in program.files:
        if file.name == program.entry and program.language == "binary":
            seen.interpreter(file.content[:MAX_SHEBANG_BYTES], 0)
    return seen.digest()


def locale_of(job: Job) -> str:
    """Return a digest of the variables that decide how programs sort and read text."""
    words = {name: job.env.get(name, os.environ.get(name, "")) for name in LOCALE}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]


def _search_path(job: Job) -> str:
    chosen = [choice for choice in (job.python, job.node) if choice and "/" in choice]
    folders = [
        str(Path(each, "bin") if Path(each).is_dir() else Path(each).parent) for each in chosen
    ]
    return os.pathsep.join([*folders, job.env.get("PATH", os.environ.get("PATH", os.defpath))])


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # a quotation that does not end
        return text.split()


def _interpreter(job: Job, program: Program) -> str:
    language = LANGUAGES[program.language]
    choice = {"python": job.python, "javascript": job.node}.get(program.language)
    try:
        return language.chosen(choice) if choice else next(iter(language.interpreter), "")
    except RayMrError:  # it is not on this machine
        return choice or ""


def _modules(program: Program) -> Iterator[str]:
    """Files of the modules that a pickled function needs by name, other than Python's own."""
    names: set[str] = set()
    for file in program.files:
        if file.name == program.entry:
            names |= _strings(file.content)
    for name in sorted(names):
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and name.partition(".")[0] not in _BUILT_IN:
            yield path


def _strings(pickled: bytes) -> set[str]:
    """All words in a pickle; one opcode has a module and a name in it with a space between."""
    found = {arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)}
    return found | {arg.partition(" ")[0] for arg in found}


class _Seen:
    """Digests of files, each under the word that names it."""

    def __init__(self, search_path: str) -> None:
        self._search_path = search_path
        self._found: dict[str, str] = {}

    def digest(self) -> str:
        """Return a digest of all of them; empty if there are none."""
        if not self._found:
            return ""
        text = json.dumps(sorted(self._found.values()))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def command(self, job: Job, program: Program) -> None:
        """Add the files that a program's command line and the job's ``setup`` name."""
        for word in (_interpreter(job, program), program.entry if program.installed else ""):
            self.word(word)
        for argument in program.arguments:
            self.word(argument)
            self.word(argument.partition("=")[2])
        for text in (*program.arguments, job.setup or ""):
            for word in _shell_words(text):
                self.word(word, program=True)

    def word(self, word: str, *, program: bool = False) -> None:
        """Add the file that a word names: an absolute path, or a command on the ``PATH``.

        Args:
            word: Any word.
            program: Another file than a program does not count.
        """
        if not word or "\0" in word:
            return
        path = word if word.startswith("/") else None
        if path is None and "/" not in word:
            path = shutil.which(word, path=self._search_path)
        if path is not None and not (program and not os.access(path, os.X_OK)):
            self.file(path)

    def file(self, path: str, depth: int = 0) -> None:
        """Add a file, and its interpreter where it is a script."""
        if path in self._found:
            return
        try:
            with _regular(path) as file:
                head = file.read(MAX_SHEBANG_BYTES)
                self._found[path] = _content(head, file)
        except OSError:
            return
        self.interpreter(head, depth)

    def interpreter(self, head: bytes, depth: int) -> None:
        """Add the interpreter of a script that begins with ``head``, such as ``#!/bin/sh``."""
        if not head.startswith(b"#!") or depth >= MAX_INTERPRETERS:
            return
        words = os.fsdecode(head[2:].partition(b"\n")[0]).split()
        for word in words[:1]:
            self.file(word, depth + 1)
        if words and Path(words[0]).name == "env":
            names = [each for each in words[1:] if "=" not in each and not each.startswith("-")]
            if names and (path := shutil.which(names[0], path=self._search_path)):
                self.file(path, depth + 1)


def _regular(path: str) -> BinaryIO:
    """Open a regular file; a pipe or device is refused without waiting for it.

    Raises:
        OSError: It cannot be read, or is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(path)
    return os.fdopen(descriptor, "rb")


def _content(head: bytes, file: BinaryIO) -> str:
    """Return a digest of a file, of which ``head`` was read already."""
    found = os.fstat(file.fileno())
    if found.st_size > MAX_DIGEST_BYTES:
        return f"{found.st_size} {found.st_mtime_ns}"
    sha = hashlib.sha256(head)
    while data := file.read(READ_BYTES):
        sha.update(data)
    return sha.hexdigest()
