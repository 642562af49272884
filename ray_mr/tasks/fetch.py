"""Bringing a split's inputs to disk: downloads and decoding run ahead, results keep the order.

Threads live here, and nowhere below.  Which store and which codec do the work is theirs to know;
what becomes of a file afterwards is the caller's.
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
    """An input on disk, or why it is not."""

    input: Input
    path: Path | None
    """``folder/key``; ``None`` if there was an error."""
    codec: str
    """What the file at ``path`` is still to be decoded from: ``none`` once decoded here."""
    error: DataError | None
    """Why this input is bad; other inputs are not affected."""
    decoded_bytes: int
    """Size after decompression; 0 if the file is handed on compressed."""


class Fetch:
    """Inputs as files below a folder, in the order given, each as soon as it is ready.

    Errors of the store (not of one object) are raised at their input's place.  Used as a context
    manager: on leaving, downloads are stopped and every thread has ended; one that waits for a
    silent server ends with its read time-out.

    Args:
        inputs: What to bring.
        folder: An existing folder; ``folder/key`` is an input's file.
        downloads: Threads, each working on one input.
        ahead_bytes: Stored bytes that may be downloading or waiting beyond what the caller has
            taken; the input that is needed next is always let through.
        decompress: ``auto`` (by the first bytes), ``none`` (files stay as stored) or a codec.
        max_expansion: As for ``decode``.
        as_text: The content will be read as lines; see ``codecs.detect``.
        decode_here: Codecs to decode into the file; what is in none of them stays compressed.
            Asked by the threads, and only for files that are compressed.
        private: Files will be written to; else a local one may be a link to the original.
        keep: ``release`` leaves the files where they are.
        backoff: How often an object is asked for that the store refuses for the moment.
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
        """By position, inputs that took more than one try so far."""
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
        self._started = 0  # inputs that a thread has taken
        self._taken = 0  # inputs that the caller has taken
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
        """Inputs that have not been taken yet.

        Raises:
            StoreError: The store failed; nothing more is brought.
            CredentialsError: As above.
            JobError: As above; the URI belongs to no store, or the codec is unknown.
            Interrupted: It was closed before every input was taken.
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
        """Content of a file that was handed on compressed, or not; see ``codecs.decode``."""
        path = fetched.path or make_safe_path(self._folder, fetched.input.object.key)
        return decode(path, fetched.codec, max_expansion=self._max_expansion, as_text=self._as_text)

    def release(self, position: int) -> None:
        """The caller is done with the file of the input at this position in the plan.

        Raises:
            StoreError: The file cannot be removed.
        """
        path = self._paths.pop(position, None)
        if path is not None and not self._keep:
            with translate_disk_errors(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop; no thread of ours is left afterwards.  Files already brought stay."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (index := self._next()) is not None:
            item = self._inputs[index]
            result: Fetched | BaseException
            try:
                result = self._bring(item)
            except DataError as error:
                result = Fetched(item, None, "none", error, 0)
            except BaseException as error:  # noqa: BLE001 - raised where the caller waits
                result = error
            with self._changed:
                self._ready[index] = result
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Index of the next input, once there is room for it; ``None`` at the end."""
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

    def _bring(self, item: Input) -> Fetched:
        obj = item.object
        if item.position in self._unsafe:
            raise self._unsafe[item.position]
        path = make_safe_path(self._folder, obj.key)
        with translate_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._paths[item.position] = path
        encoding = self._download(item.position, obj, path)
        try:
            return self._decoded(item, path, encoding)
        except DataError as error:
            path.unlink(missing_ok=True)
            what = error.message.removeprefix(f"{path.name}: ")
            raise type(error)(f"{obj.uri}: {what}", error.hint) from None

    def _download(self, position: int, obj: StoredObject, path: Path) -> str:
        """Bring an object; its ``Content-Encoding`` is returned."""
        store, tried, waited_s = store_for(obj.uri), 1, 0.0
        while True:
            try:
                return store.download(obj, path, private=self._private, stop=self._stop) or ""
            except StoreUnavailable as error:
                pause_s = self._backoff.pause_s(obj.uri, tried)
                tried, waited_s = tried + 1, waited_s + (pause_s or 0.0)
                self.retries[position] = FetchRetries(position, tried, waited_s, error.message)
                if pause_s is None:
                    raise
                if self._stop.wait(pause_s):
                    raise Interrupted(f"{obj.uri}: the download was stopped") from None

    def _decoded(self, item: Input, path: Path, encoding: str) -> Fetched:
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
    """Errors, by position, of inputs whose path an earlier one needs as a file or a folder."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    found: dict[int, UnsafeKey] = {}
    for item in inputs:
        key, uri = item.object.key, item.object.uri
        above = [key[:end] for end, letter in enumerate(key) if letter == "/"]
        other = files.get(key) or folders.get(key)
        other = other or next((files[name] for name in above if name in files), None)
        if other is not None:
            found[item.position] = UnsafeKey(
                f"{uri} and {other} cannot both be files of one split: their keys collide"
            )
            continue
        files[key] = uri
        folders.update(dict.fromkeys(above, uri))
    return found
