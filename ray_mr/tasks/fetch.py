"""Fetching a split's inputs to disk: downloads and decoding run ahead, results keep their order.

How callers use it:

1. ``Fetch.of(job, inputs, folder, ...)`` starts the threads; use it as a context manager.
2. Iterate over it: a ``Fetched`` for each input, in order, with its file or its error.
3. ``release`` removes the file of an input that is no longer needed.

How it works inside:

1. Each thread takes the next input (``_take_next``) once it fits into ``ahead_bytes``.
2. ``_fetch_input`` downloads it, repeats requests that a busy store refuses, detects its codec, and
   decodes it if the codec is in ``decode_here``.
3. The iterator waits for the input that is next in order.

These are the only threads of a map attempt's input: stores and codecs start none.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ray_mr.codecs.decode import decode, decode_to, detect
from ray_mr.errors import DataError, Interrupted, StoreUnavailable, UnsafeKey
from ray_mr.jobs.job import MAX_EXPANSION
from ray_mr.model import FetchRetries
from ray_mr.stores.registry import store_for
from ray_mr.system.backoff import NO_RETRY, Backoff
from ray_mr.system.scratch import make_safe_path, translate_disk_errors

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from ray_mr.jobs.job import Job
    from ray_mr.model import Input, StoredObject


AHEAD_BYTES = 128 << 20
"""Maximum stored bytes that downloads of a job are ahead of the reader."""


class _AllCodecs:
    def __contains__(self, codec: object) -> bool:
        return True


ALL_CODECS = _AllCodecs()
"""For ``Fetch.decode_here``: decode every file."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An input on disk, or its error."""

    input: Input
    path: Path | None
    """Path of the file, ``folder/key``; ``None`` after an error."""
    codec: str
    """Codec of the file at ``path``; ``none`` if it is decoded."""
    error: DataError | None
    """Cause if this input is bad; other inputs are not affected."""
    decoded_bytes: int
    """Size after decompression; 0 if the file is still compressed."""


class Fetch:
    """Fetches inputs to files below a folder, and yields them in order as soon as they are ready.

    Errors of a store (not of one object) are raised at their input's place in the order.  The end
    of the context manager stops downloads and joins every thread; a thread that waits for a silent
    server ends at its read timeout.

    Args:
        inputs: Inputs to fetch.
        folder: An existing folder; ``folder/key`` is an input's file.
        downloads: Number of threads, each working on one input.
        ahead_bytes: Maximum stored bytes that are downloading or waiting for the caller; the next
            input in order is always fetched.
        decompress: ``auto`` (by the first bytes), ``none`` (files stay as stored) or a codec.
        max_expansion: As for ``decode``.
        as_text: The content will be read as lines; see ``codecs.detect``.
        decode_here: Codecs to decode into the file; files of other codecs stay compressed.  The
            threads ask for a file's codec, only if the file is compressed.
        private: Files may be modified; otherwise a local file may be a link to the original.
        keep: ``release`` keeps the files.
        backoff: Pauses between requests for an object that its store refuses temporarily.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        folder: Path,
        *,
        downloads: int,
        ahead_bytes: int,
        decompress: str,
        max_expansion: int = MAX_EXPANSION,
        as_text: bool = False,
        decode_here: Container[str],
        private: bool,
        keep: bool,
        backoff: Backoff = NO_RETRY,
    ) -> None:
        self.retries: dict[int, FetchRetries] = {}
        """By position, the failed downloads of inputs so far."""
        self._backoff = backoff
        self._inputs, self._folder = inputs, folder
        self._ahead_bytes, self._decompress, self._decode_here = (
            ahead_bytes,
            decompress,
            decode_here,
        )
        self._private, self._keep = private, keep
        self._max_expansion, self._as_text = max_expansion, as_text
        self._unsafe = _find_collisions(inputs)
        self._paths: dict[int, Path] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._started = 0  # number of inputs that threads have taken
        self._taken = 0  # number of inputs that the caller has taken
        self._held_bytes = 0  # stored bytes between the two
        self._ready: dict[int, Fetched | BaseException] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            for number in range(min(downloads, len(inputs)))
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(
        cls,
        job: Job,
        inputs: Sequence[Input],
        folder: Path,
        *,
        as_text: bool,
        decode_here: Container[str],
        private: bool,
        keep: bool,
        backoff: Backoff = NO_RETRY,
    ) -> Self:
        """Start to fetch inputs with the options of a job."""
        return cls(
            inputs,
            folder,
            downloads=job.downloads,
            ahead_bytes=AHEAD_BYTES,
            decompress=job.decompress,
            max_expansion=job.max_expansion,
            as_text=as_text,
            decode_here=decode_here,
            private=private,
            keep=keep,
            backoff=backoff,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Fetched]:
        """Yield the inputs that have not been taken yet.

        Raises:
            StoreError: The store failed; no more inputs follow.
            CredentialsError: As above.
            JobError: As above; the URI belongs to no store, or the codec is unknown.
            Interrupted: ``close`` was called before every input was taken.
        """
        while self._taken < len(self._inputs):
            with self._changed:
                index = self._taken
                while index not in self._ready and not self._stop.is_set():
                    self._changed.wait()
                if self._stop.is_set():
                    raise Interrupted("fetching was stopped before every input was taken")
                fetched = self._ready.pop(index)
                self._taken += 1
                self._held_bytes -= self._inputs[index].object.size_bytes
                self._changed.notify_all()
            if isinstance(fetched, BaseException):
                self.close()
                raise fetched
            yield fetched

    def decode(self, fetched: Fetched) -> Iterator[bytes]:
        """Yield the decoded content of a file; see ``codecs.decode``."""
        path = fetched.path or make_safe_path(self._folder, fetched.input.object.key)
        return decode(path, fetched.codec, max_expansion=self._max_expansion, as_text=self._as_text)

    def release(self, position: int) -> None:
        """Remove the file of the input at a position in the plan, unless files are kept.

        Raises:
            StoreError: The file cannot be removed.
        """
        path = self._paths.pop(position, None)
        if path is not None and not self._keep:
            with translate_disk_errors(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop downloads and join all threads; fetched files stay."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (index := self._take_next()) is not None:
            item = self._inputs[index]
            result: Fetched | BaseException
            try:
                result = self._fetch_input(item)
            except DataError as error:
                result = Fetched(item, None, "none", error, 0)
            except BaseException as error:  # noqa: BLE001 - raised where the caller waits
                result = error
            with self._changed:
                self._ready[index] = result
                self._changed.notify_all()

    def _take_next(self) -> int | None:
        """Return the index of the next input once there is room for it; ``None`` at the end."""
        with self._changed:
            while not self._stop.is_set() and self._started < len(self._inputs):
                size = self._inputs[self._started].object.size_bytes
                room = self._held_bytes + size <= self._ahead_bytes
                if room or self._started == self._taken:
                    self._started += 1
                    self._held_bytes += size
                    return self._started - 1
                self._changed.wait()
            return None

    def _fetch_input(self, item: Input) -> Fetched:
        obj = item.object
        if item.position in self._unsafe:
            raise self._unsafe[item.position]
        path = make_safe_path(self._folder, obj.key)
        with translate_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._paths[item.position] = path
        encoding = self._download(item.position, obj, path)
        try:
            return self._decode_file(item, path, encoding)
        except DataError as error:
            path.unlink(missing_ok=True)
            message = error.message.removeprefix(f"{path.name}: ")
            raise type(error)(f"{obj.uri}: {message}", error.hint) from None

    def _download(self, position: int, obj: StoredObject, path: Path) -> str:
        """Download an object; return its ``Content-Encoding``."""
        store, failures, waited_s = store_for(obj.uri), 0, 0.0
        while True:
            try:
                return store.download(obj, path, private=self._private, stop=self._stop) or ""
            except StoreUnavailable as error:
                failures += 1
                pause_s = self._backoff.compute_pause_s(obj.uri, failures)
                waited_s += pause_s or 0.0
                self.retries[position] = FetchRetries(position, failures, waited_s, error.message)
                if pause_s is None:
                    raise
                if self._stop.wait(pause_s):
                    raise Interrupted(f"{obj.uri}: the download was stopped") from None

    def _decode_file(self, item: Input, path: Path, encoding: str) -> Fetched:
        codec = self._decompress
        if codec == "auto":
            codec = detect(path, encoding=encoding, as_text=self._as_text)
        with translate_disk_errors(path):
            size = path.stat().st_size
        if codec == "none" or not size:
            return Fetched(item, path, "none", None, size)
        if codec not in self._decode_here:
            return Fetched(item, path, codec, None, 0)
        size = decode_to(
            path,
            path,
            codec,
            max_expansion=self._max_expansion,
            as_text=self._as_text,
            stop=self._stop,
        )
        return Fetched(item, path, "none", None, size)


def _find_collisions(inputs: Sequence[Input]) -> dict[int, UnsafeKey]:
    """Return errors by position for inputs whose path is a file or folder of an earlier input."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    errors: dict[int, UnsafeKey] = {}
    for item in inputs:
        key, uri = item.object.key, item.object.uri
        prefixes = [key[:end] for end, letter in enumerate(key) if letter == "/"]
        other = files.get(key) or folders.get(key)
        other = other or next((files[name] for name in prefixes if name in files), None)
        if other is not None:
            errors[item.position] = UnsafeKey(
                f"{uri} and {other} cannot both be files of one split: their keys collide"
            )
            continue
        files[key] = uri
        folders.update(dict.fromkeys(prefixes, uri))
    return errors
