"""What a run keeps beside its output, so that another can go on where it stopped.

A folder (or prefix) of small objects, each written whole or not at all: ``run.json`` says what was
run, a *piece* holds the blocks and counts of one committed attempt, a *failure* an input that has
failed for good, ``mapped`` that every input had its turn.  Nothing here is trusted: a piece whose
checksum is wrong is no piece, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_mr import errors, machine
from ray_mr.errors import CorruptObject, JobError, RayMrError, StoreUnavailable
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, FileCounts
from ray_mr.sinks import is_prefix, write_whole
from ray_mr.stores import store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from ray_mr.model import Split, StoredObject

MAGIC = b"ray_mr piece 1\n"
RUN = "run.json"
MAPPED = "mapped"
HASH_BYTES = 8
DIGEST_BYTES = hashlib.sha256().digest_size
MAX_HEAD_BYTES = 256 << 20
READ_BYTES = 1 << 20
T = TypeVar("T")
_NOT_KEPT = {"failed", "error", "suspect", "troubles", "poison", "usage"}
"""Fields of an ``AttemptEnd`` that say nothing of one that was committed."""


def state_uri(output: str) -> str:
    """The prefix under which the state of a run with this output stands; ends in ``/``."""
    if is_prefix(output):
        return f"{output}_ray_mr_state/"
    folder, _, name = output.rpartition("/")
    return f"{folder}/.{name}.ray-mr-state/"


@dataclass(frozen=True, slots=True)
class Version:
    """An input as it was when it was mapped."""

    uri: str
    size_bytes: int
    content: str
    """The store's ETag; of a local file, whose time says nothing, a digest of its bytes."""

    @classmethod
    def of(cls, obj: StoredObject) -> Version:
        """The version of an object as it is now, which for a local file is read whole.

        Raises:
            StoreError: It cannot be read.
        """
        content = obj.etag
        if "://" not in obj.uri:
            sha = hashlib.sha256()
            with store_for(obj.uri).open(obj.uri) as file:
                while data := file.read(READ_BYTES):
                    sha.update(data)
            content = sha.hexdigest()
        return cls(obj.uri, obj.size_bytes, content)


@dataclass(frozen=True, slots=True)
class Piece:
    """A committed attempt, as it is known without its blocks."""

    uri: str
    """Where it stands."""
    versions: tuple[Version, ...]
    end: AttemptEnd
    blocks: tuple[tuple[BlockMeta, int], ...]
    """Each with the length of its bytes."""

    def placed(self, split: Split, ident: AttemptId) -> tuple[AttemptEnd, list[BlockMeta]]:
        """Its counts and blocks as those of an attempt of this split of another plan."""
        moved = dict(zip(self._positions(), (item.position for item in split.inputs), strict=True))
        files = tuple(replace(one, position=moved[one.position]) for one in self.end.files)
        metas = [replace(meta, id=ident) for meta, _ in self.blocks]
        return replace(self.end, id=ident, files=files), metas

    def _positions(self) -> list[int]:
        return sorted(one.position for one in self.end.files)

    def read(self, hold: Callable[[bytes], Any]) -> list[Any]:
        """What ``hold`` makes of each block's bytes.

        Raises:
            CorruptObject: It is not what was written.
            StoreError: It cannot be read.
        """

        def held(uri: str) -> list[Any]:
            with store_for(uri).open(uri) as stream:
                sha = hashlib.sha256(_head_bytes(stream, uri))
                made = []
                for _, size in self.blocks:
                    data = _exactly(stream, size, uri)
                    sha.update(data)
                    made.append(hold(data))
                if stream.read(DIGEST_BYTES + 1) != sha.digest():
                    raise CorruptObject(f"{uri} is damaged")
            return made

        return _twice(held, self.uri)


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that has failed for good, and why."""

    version: Version
    error: RayMrError
    limits: str
    """How hard it was tried; see ``resume.limits``."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run has left."""

    run_id: str
    facts: Mapping[str, str]
    """The fingerprint of what decided its map output."""
    pieces: tuple[Piece, ...]
    failures: Mapping[str, Failure]
    """By URI."""
    mapped: frozenset[bytes] | None
    """``name_hash`` of every input, if each had its turn."""
    damaged: int
    """Objects that say nothing any more."""


class State:
    """The state beside one output."""

    def __init__(self, output: str) -> None:
        self.uri = state_uri(output)
        self._store = store_for(output)
        self._run: dict[str, Any] = {}
        self._basis = ""

    def begin(self, run_id: str, facts: Mapping[str, str]) -> None:
        """Say what is run, and by whom; what is kept from here on belongs to it.

        Raises:
            StoreError: It cannot be written there.
        """
        self._store.delete(self.uri + MAPPED)
        self._run = {"run_id": run_id, "facts": dict(facts)}
        self._basis = basis_of(facts)
        self._write_run(machine.process_mark())

    def rest(self) -> None:
        """Say that nobody is at work on it any more.

        Raises:
            StoreError: It cannot be written there.
        """
        self._write_run("")

    def _write_run(self, owner: str) -> None:
        text = json.dumps(self._run | {"owner": owner}, indent=1)
        write_whole(self.uri + RUN, text.encode())

    def check_owner(self) -> None:
        """Look whether somebody is at work on it.

        Raises:
            JobError: A living process of this machine is.
            StoreError: The store cannot say.
        """
        owner = str((self._read_run() or {}).get("owner", ""))
        if machine.is_at_work(owner):
            raise JobError(
                f"process {owner.split('/')[-2]} is at work on this output",
                "wait for its end, end it, or choose another --output",
            )

    def is_ours(self) -> bool:
        """Whether no other run has begun since ``begin``.

        Raises:
            StoreError: The store cannot say.
        """
        run = self._read_run() or {}
        return bool(run.get("run_id") == self._run["run_id"])

    def claim(self) -> None:
        """Say once more what ``begin`` said, where nobody says anything any more.

        Raises:
            StoreError: It cannot be written there.
        """
        if not self.is_there():
            self._write_run(machine.process_mark())

    def _read_run(self) -> dict[str, Any] | None:
        if not self.is_there():
            return None
        try:
            run = _twice(_run, self.uri + RUN)
        except CorruptObject:
            return None
        return run if isinstance(run, dict) else None

    def forget_failures(self, earlier: Earlier) -> None:
        """What has failed runs again: another word on it is to come."""
        for failure in earlier.failures.values():
            self._store.delete(self.uri + _name("failed", [failure.version]))

    def keep(
        self, split: Split, end: AttemptEnd, metas: Sequence[BlockMeta], blocks: Iterable[Any]
    ) -> None:
        """Keep a committed attempt, whose blocks' bytes are taken one by one as they are written.

        Raises:
            StoreError: It cannot be written.
            DataError: An input has changed, or a block has another length than it should.
        """
        versions = [Version.of(item.object) for item in split.inputs]
        for item in split.inputs:
            if error := store_for(item.object.uri).changed(item.object):
                raise error
        head = _head(versions, end, metas, self._basis)
        staged = self._store.stage(self.uri + _name("piece", versions))
        try:
            sha = hashlib.sha256(head)
            staged.write(head)
            for meta, data in zip(metas, blocks, strict=True):
                if len(data) != meta.size_bytes:
                    raise CorruptObject(f"block {meta.sequence} of {meta.id} has another length")
                sha.update(data)
                staged.write(data)
            staged.write(sha.digest())
            staged.complete()
        finally:
            staged.abort()

    def keep_failure(self, obj: StoredObject, error: RayMrError, limits: str) -> None:
        """Keep that an input has failed, tried as hard as these limits allow.

        Raises:
            StoreError: It cannot be written, or the input cannot be read.
        """
        version = Version.of(obj)
        facts = {
            "error": type(error).__name__, "message": error.message, "hint": error.hint,
            "limits": limits, "basis": self._basis,
        }  # fmt: skip
        text = json.dumps({"version": asdict(version)} | facts)
        write_whole(self.uri + _name("failed", [version]), _sealed(text))

    def keep_mapped(self, uris: Iterable[str]) -> None:
        """Keep that every input, which are these, had its turn."""
        data = b"".join(sorted({name_hash(uri) for uri in uris}))
        write_whole(self.uri + MAPPED, hashlib.sha256(data).digest() + data)

    def is_there(self) -> bool:
        """Whether a run has left anything."""
        return self._store.exists(self.uri + RUN)

    def clear(self) -> None:
        """Remove all of it, what a killed run was about to write too."""
        self._store.clear(self.uri)

    def earlier(self) -> Earlier | None:
        """What is there, or ``None`` if no run has left anything that can be read.

        Raises:
            StoreError: The store cannot say.
        """
        run = self._read_run()
        if run is None:
            return None
        try:
            run_id, facts = str(run["run_id"]), {str(k): str(v) for k, v in run["facts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        basis = basis_of(facts)
        pieces: list[Piece] = []
        failures: dict[str, Failure] = {}
        mapped, damaged = None, 0
        for obj in self._store.find(self.uri):
            name = obj.uri.rpartition("/")[2]
            try:
                if name == MAPPED:
                    mapped = _twice(_names, obj.uri)
                elif name.startswith("piece-"):
                    pieces.append(_twice(_piece, obj.uri, basis))
                elif name.startswith("failed-"):
                    failure = _twice(_failure, obj.uri, basis)
                    failures[failure.version.uri] = failure
            except CorruptObject:
                damaged += 1
        return Earlier(run_id, facts, tuple(pieces), failures, mapped, damaged)


def basis_of(facts: Mapping[str, str]) -> str:
    """A digest of a fingerprint.

    What is kept holds it: a run that did not hear of its end in time may still write, when another,
    of another mapper, has begun at the same place.
    """
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:32]


def name_hash(uri: str) -> bytes:
    """Eight bytes that stand for a name."""
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).digest()[:HASH_BYTES]


def _twice(read: Callable[..., T], uri: str, *words: str) -> T:
    """What is read; once more if it is damaged, or was on the way."""
    try:
        return read(uri, *words)
    except (CorruptObject, StoreUnavailable):
        return read(uri, *words)


def _run(uri: str) -> Any:
    with store_for(uri).open(uri) as stream:
        data = stream.read(MAX_HEAD_BYTES)
    try:
        return json.loads(data)
    except ValueError:
        raise CorruptObject(f"{uri} is damaged") from None


def _names(uri: str) -> frozenset[bytes]:
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    digest, data = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptObject(f"{uri} is damaged")
    return frozenset(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def _name(kind: str, versions: Sequence[Version]) -> str:
    words = "\0".join(version.uri for version in versions).encode("utf-8", "surrogateescape")
    return f"{kind}-{hashlib.sha256(words).hexdigest()[:24]}"


# ---------------------------------------------------------------- bytes of a piece


def _head(
    versions: Sequence[Version], end: AttemptEnd, metas: Sequence[BlockMeta], basis: str
) -> bytes:
    counts = {
        field.name: getattr(end, field.name)
        for field in fields(end)
        if field.name not in _NOT_KEPT | {"files", "id"}
    }
    facts = {
        "basis": basis,
        "versions": [asdict(version) for version in versions],
        "id": asdict(end.id),
        "files": [asdict(one) for one in end.files],
        "counts": counts,
        "blocks": [asdict(meta) | {"bytes": meta.size_bytes} for meta in metas],
    }
    text = json.dumps(facts, default=dict).encode()
    return MAGIC + f"{len(text)}\n".encode() + _sealed(text.decode())


def _sealed(text: str) -> bytes:
    """Text with its own checksum before it, so that it can be believed by itself."""
    data = text.encode()
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _unsealed(data: bytes, uri: str) -> Any:
    digest, _, text = data.partition(b"\n")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise CorruptObject(f"{uri} is damaged")
    return json.loads(text)


def _head_bytes(stream: BinaryIO, uri: str) -> bytes:
    magic = _exactly(stream, len(MAGIC), uri)
    size = stream.readline(20)
    if magic != MAGIC or not size.strip().isdigit() or int(size) > MAX_HEAD_BYTES:
        raise CorruptObject(f"{uri} is no kept split")
    return magic + size + _exactly(stream, 2 * DIGEST_BYTES + 1 + int(size), uri)


def _exactly(stream: BinaryIO, size: int, uri: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise CorruptObject(f"{uri} is cut short")
    return data


def _piece(uri: str, basis: str) -> Piece:
    with store_for(uri).open(uri) as stream:
        head = _head_bytes(stream, uri)
    sealed = head[len(MAGIC) :].partition(b"\n")[2]
    try:
        facts = _unsealed(sealed, uri)
        _check_basis(facts, basis, uri)
        ident = AttemptId(**facts["id"])
        files = tuple(FileCounts(**one) for one in facts["files"])
        end = AttemptEnd(ident, files, **facts["counts"])
        blocks = tuple(_block(one) for one in facts["blocks"])
        versions = tuple(Version(**one) for one in facts["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(f"{uri} makes no sense: {error}") from None
    if len(versions) != len(files) or end.blocks != len(blocks):
        raise CorruptObject(f"{uri} contradicts itself")
    return Piece(uri, versions, end, blocks)


def _check_basis(facts: dict[str, Any], basis: str, uri: str) -> None:
    if facts["basis"] != basis:
        raise CorruptObject(f"{uri} is of another run")


def _block(facts: dict[str, Any]) -> tuple[BlockMeta, int]:
    size = int(facts.pop("bytes"))
    fitted: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    fitted["id"] = AttemptId(**facts["id"])
    return BlockMeta(**fitted), size


def _failure(uri: str, basis: str) -> Failure:
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    try:
        facts = _unsealed(data, uri)
        _check_basis(facts, basis, uri)
        kind = getattr(errors, facts["error"], RayMrError)
        if not (isinstance(kind, type) and issubclass(kind, RayMrError)):
            kind = RayMrError
        error = kind(facts["message"], facts["hint"])
        return Failure(Version(**facts["version"]), error, str(facts["limits"]))
    except (ValueError, KeyError, TypeError) as odd:
        raise CorruptObject(f"{uri} makes no sense: {odd}") from None


def pieces_by_first(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Pieces in an order that does not depend on names: by their first input, the longest first."""
    yield from sorted(pieces, key=lambda piece: (piece.versions[0].uri, -len(piece.versions)))
