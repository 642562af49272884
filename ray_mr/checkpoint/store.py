"""What a run keeps beside its output, so that another can go on where it stopped.

A folder (or prefix) of small objects, each written whole or not at all: ``run.json`` says what was
run, a *piece* holds the blocks and counts of one committed attempt, a *failure* an input that has
failed for good, ``mapped`` that every input had its turn.  Nothing here is trusted: a piece whose
checksum is wrong is no piece, and nothing is unpickled.

Finished work is destroyed only when newer work has replaced it.  Each object belongs to a
*generation*: a run that starts anew, and the runs that go on with it.  The name of an object ends
in its generation, so objects of two generations stand side by side:

1. ``begin`` adds a new generation to ``run.json`` in front of those that hold finished work, or
   goes on with one of them.  Nothing is deleted.
2. ``keep`` writes a piece; the first one of a run makes ``discard`` delete the other generations.
3. ``rest`` leaves in ``run.json`` the generations that hold something; ``clear`` removes all.

A process that is killed between two of these steps leaves generations that are read as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import threading
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_mr import errors
from ray_mr.errors import CorruptObject, JobError, RayMrError, StoreError, StoreUnavailable
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, FileCounts
from ray_mr.stores.layout import is_prefix
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.system import host, strict_json

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from ray_mr.model import Split, StoredObject

MAGIC = b"ray_mr piece 1\n"
RUN = "run.json"
MAPPED = "mapped"
KINDS = frozenset({"piece", "failed", MAPPED})
"""What the names of objects with finished work begin with."""
HASH_BYTES = 8
DIGEST_BYTES = hashlib.sha256().digest_size
MAX_HEAD_BYTES = 256 << 20
READ_BYTES = 1 << 20
T = TypeVar("T")
_NOT_KEPT = {"failed", "error", "suspect", "fetch_retries", "poison", "usage"}
"""Fields of an ``AttemptEnd`` that say nothing of one that was committed."""


def state_uri(output: str) -> str:
    """The prefix under which the state of a run with this output stands; ends in ``/``."""
    if is_prefix(output):
        return f"{output}_ray_mr_state/"
    folder, _, name = output.rpartition("/")
    return f"{folder}/.{name}.ray-mr-state/"


@dataclass(frozen=True, slots=True)
class InputVersion:
    """An input as it was when it was mapped."""

    uri: str
    size_bytes: int
    content: str
    """The store's ETag; of a local file, whose time says nothing, a digest of its bytes."""

    @classmethod
    def of(cls, obj: StoredObject) -> InputVersion:
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
class SavedSplit:
    """A committed attempt, as it is known without its blocks."""

    uri: str
    """Where it stands."""
    versions: tuple[InputVersion, ...]
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
class SavedFailure:
    """An input that has failed for good, and why."""

    version: InputVersion
    error: RayMrError
    limits: str
    """How hard it was tried; see ``resume.limits``."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A run that started anew, and the runs that went on with it."""

    ident: str
    """The end of its objects' names."""
    facts: Mapping[str, str]
    """The fingerprint of what decided its map output."""

    @property
    def basis(self) -> str:
        """A digest that each of its objects holds.

        A run that did not hear of its end in time may still write when another, of another mapper,
        has begun at the same place.
        """
        text = json.dumps([self.ident, dict(self.facts)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class StoredState:
    """The generations beside an output that hold something, the newest first."""

    generations: tuple[Generation, ...]
    pieces: int
    """Finished splits of all of them."""

    def best(self, facts: Mapping[str, str]) -> Generation | None:
        """The newest one with this fingerprint; if there is none, the newest."""
        same = [each for each in self.generations if dict(each.facts) == dict(facts)]
        return next(iter([*same, *self.generations]), None)


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """What one generation has left."""

    generation: Generation
    pieces: tuple[SavedSplit, ...]
    failures: Mapping[str, SavedFailure]
    """By URI."""
    mapped: frozenset[bytes] | None
    """``name_hash`` of every input, if each had its turn."""
    damaged: int
    """Objects that say nothing any more."""


class CheckpointStore:
    """The state beside one output."""

    def __init__(self, output: str) -> None:
        self.uri = state_uri(output)
        self._store = writable_store_for(output)
        self._run_id = ""
        self.replaces = False
        """Whether this run was asked to replace an older result, which then still stands."""
        self._generation = Generation("", {})
        self._others: tuple[Generation, ...] = ()
        self._failed: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._replaced = False

    def begin(
        self,
        run_id: str,
        facts: Mapping[str, str],
        found: StoredState | None = None,
        goes_on: PreviousRun | None = None,
    ) -> None:
        """Record what is run, and by which process; objects kept from here on belong to it.

        Args:
            run_id: Of this run.
            facts: Its fingerprint.
            found: What is there already; it stays until ``discard``.
            goes_on: The generation to go on with; ``None``: a new one.

        Raises:
            StoreError: It cannot be written there.
        """
        self._run_id = run_id
        self._generation = goes_on.generation if goes_on else Generation(_new_ident(), dict(facts))
        there = found.generations if found else ()
        self._others = tuple(each for each in there if each.ident != self._generation.ident)
        self._failed = frozenset(goes_on.failures if goes_on else ())
        self._write_run(host.make_process_mark(), [self._generation, *self._others])

    def rest(self) -> bool:
        """Record that no process works on it any more; remove it if it holds nothing.

        Returns:
            Whether it holds something.

        Raises:
            StoreError: It cannot be written there.
        """
        there = self._census()
        mapped_alone = {ident for ident, kinds in there.items() if kinds.keys() <= {MAPPED}}
        worth = there.keys() - mapped_alone
        generations = [g for g in (self._generation, *self._others) if g.ident in worth]
        if generations:
            self._write_run("", generations)
        else:
            self.clear()
        return bool(generations)

    def _write_run(self, owner: str, generations: Sequence[Generation]) -> None:
        run = {
            "run_id": self._run_id,
            "owner": owner,
            "replaces": self.replaces,
            "generations": [asdict(each) for each in generations],
        }
        write_object(self.uri + RUN, strict_json.dumps(run, indent=1).encode())

    def _census(self) -> dict[str, Counter[str]]:
        """How many objects of each kind each generation has."""
        there: dict[str, Counter[str]] = {}
        for obj in self._store.find(self.uri):
            kind, ident = _kind_and_generation(obj.uri)
            if kind in KINDS:
                there.setdefault(ident, Counter())[kind] += 1
        return there

    def discard(self) -> None:
        """Delete all that belongs to other generations than this run's.

        Raises:
            StoreError: The store refuses.
        """
        for obj in list(self._store.find(self.uri)):
            kind, ident = _kind_and_generation(obj.uri)
            if kind in KINDS and ident != self._generation.ident:
                self._store.delete(obj.uri)

    def check_owner(self) -> None:
        """Look whether somebody is at work on it.

        Raises:
            JobError: A living process of this machine is.
            StoreError: The store cannot say.
        """
        owner = str((self._read_run() or {}).get("owner", ""))
        if host.is_process_alive(owner):
            raise JobError(
                f"process {owner.split('/')[-2]} is at work on this output",
                "wait for its end, end it, or choose another --output",
            )

    def was_to_replace(self) -> bool:
        """Whether the run that has left it was asked to replace an older result.

        Raises:
            StoreError: The store cannot say.
        """
        return (self._read_run() or {}).get("replaces") is True

    def is_ours(self) -> bool:
        """Whether no other run has begun since ``begin``.

        Raises:
            StoreError: The store cannot say.
        """
        run = self._read_run() or {}
        return bool(run.get("run_id") == self._run_id)

    def claim(self) -> None:
        """Say once more what ``begin`` said, where nobody says anything any more.

        Raises:
            StoreError: It cannot be written there.
        """
        if not self.is_there():
            self._write_run(host.make_process_mark(), [self._generation])

    def _read_run(self) -> dict[str, Any] | None:
        if not self.is_there():
            return None
        try:
            run = _twice(_run, self.uri + RUN)
        except CorruptObject:
            return None
        return run if isinstance(run, dict) else None

    def keep(
        self, split: Split, end: AttemptEnd, metas: Sequence[BlockMeta], blocks: Iterable[Any]
    ) -> None:
        """Keep a committed attempt, whose blocks' bytes are taken one by one as they are written.

        Raises:
            StoreError: It cannot be written.
            DataError: An input has changed, or a block has another length than it should.
        """
        versions = [InputVersion.of(item.object) for item in split.inputs]
        for item in split.inputs:
            if error := store_for(item.object.uri).detect_change(item.object):
                raise error
        head = _head(versions, end, metas, self._generation.basis)
        staged = self._store.stage(self._named("piece", versions))
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
        self._replace(versions)

    def _replace(self, versions: Sequence[InputVersion]) -> None:
        """Delete what a piece that was just kept has replaced; none of it is read any more."""
        with self._lock:
            first, self._replaced = not self._replaced, True
        with contextlib.suppress(StoreError):  # what stays goes at the end
            for version in versions:
                if version.uri in self._failed:
                    self._store.delete(self._named("failed", [version]))
            if first:
                self.discard()

    def _named(self, kind: str, versions: Sequence[InputVersion]) -> str:
        return f"{self.uri}{_name(kind, versions)}-{self._generation.ident}"

    def keep_failure(self, obj: StoredObject, error: RayMrError, limits: str) -> None:
        """Keep that an input has failed, tried as hard as these limits allow.

        Raises:
            StoreError: It cannot be written, or the input cannot be read.
        """
        version = InputVersion.of(obj)
        facts = {
            "error": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "limits": limits,
            "basis": self._generation.basis,
        }
        text = strict_json.dumps({"version": asdict(version)} | facts)
        write_object(self._named("failed", [version]), _sealed(text))

    def keep_mapped(self, uris: Iterable[str]) -> None:
        """Keep that every input, which are these, had its turn."""
        data = b"".join(sorted({name_hash(uri) for uri in uris}))
        uri = f"{self.uri}{MAPPED}-{self._generation.ident}"
        write_object(uri, hashlib.sha256(data).digest() + data)

    def is_there(self) -> bool:
        """Whether a run has left anything."""
        return self._store.exists(self.uri + RUN)

    def clear(self) -> None:
        """Remove all of it, what a killed run was about to write too."""
        self._store.clear(self.uri, last=RUN)

    def found(self) -> StoredState | None:
        """The generations that hold something; ``None`` if no run has left a readable record.

        Raises:
            StoreError: The store cannot say.
        """
        run = self._read_run()
        if run is None:
            return None
        try:
            known = [_generation(facts) for facts in run["generations"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        there = self._census()
        holding = tuple(each for each in known if each.ident in there)
        return StoredState(holding, sum(there[each.ident]["piece"] for each in holding))

    def earlier(self, generation: Generation, others: Collection[str] = ()) -> PreviousRun:
        """What a generation has left.

        Args:
            generation: Which one.
            others: Other generations that are known; objects of any further one count as damaged.

        Raises:
            StoreError: The store cannot say.
        """
        pieces: list[SavedSplit] = []
        failures: dict[str, SavedFailure] = {}
        mapped, damaged = None, 0
        for obj in self._store.find(self.uri):
            kind, ident = _kind_and_generation(obj.uri)
            if kind not in KINDS or (ident in others and ident != generation.ident):
                continue
            try:
                if ident != generation.ident:
                    damaged += 1
                elif kind == MAPPED:
                    mapped = _twice(_names, obj.uri)
                elif kind == "piece":
                    pieces.append(_twice(_piece, obj.uri, generation.basis))
                else:
                    failure = _twice(_failure, obj.uri, generation.basis)
                    failures[failure.version.uri] = failure
            except CorruptObject:
                damaged += 1
        return PreviousRun(generation, tuple(pieces), failures, mapped, damaged)


def _new_ident() -> str:
    return secrets.token_hex(4)


def _generation(facts: Mapping[str, Any]) -> Generation:
    pairs = {str(key): str(value) for key, value in facts["facts"].items()}
    return Generation(str(facts["ident"]), pairs)


def _kind_and_generation(uri: str) -> tuple[str, str]:
    """``("piece", "0a1b2c3d")`` of ``.../piece-9f86d081884c7d65-0a1b2c3d``."""
    name = uri.rpartition("/")[2]
    return name.partition("-")[0], name.rpartition("-")[2]


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
        return strict_json.loads(data)
    except ValueError:
        raise CorruptObject(f"{uri} is damaged") from None


def _names(uri: str) -> frozenset[bytes]:
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    digest, data = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptObject(f"{uri} is damaged")
    return frozenset(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def _name(kind: str, versions: Sequence[InputVersion]) -> str:
    words = "\0".join(version.uri for version in versions).encode("utf-8", "surrogateescape")
    return f"{kind}-{hashlib.sha256(words).hexdigest()[:24]}"


# ---------------------------------------------------------------- bytes of a piece


def _head(
    versions: Sequence[InputVersion], end: AttemptEnd, metas: Sequence[BlockMeta], basis: str
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
    text = strict_json.dumps(facts, default=dict).encode()
    return MAGIC + f"{len(text)}\n".encode() + _sealed(text.decode())


def _sealed(text: str) -> bytes:
    """Text with its own checksum before it, so that it can be believed by itself."""
    data = text.encode()
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _unsealed(data: bytes, uri: str) -> Any:
    digest, _, text = data.partition(b"\n")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise CorruptObject(f"{uri} is damaged")
    return strict_json.loads(text)


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


def _piece(uri: str, basis: str) -> SavedSplit:
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
        versions = tuple(InputVersion(**one) for one in facts["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(f"{uri} makes no sense: {error}") from None
    if len(versions) != len(files) or end.blocks != len(blocks):
        raise CorruptObject(f"{uri} contradicts itself")
    return SavedSplit(uri, versions, end, blocks)


def _check_basis(facts: dict[str, Any], basis: str, uri: str) -> None:
    if facts["basis"] != basis:
        raise CorruptObject(f"{uri} is of another run")


def _block(facts: dict[str, Any]) -> tuple[BlockMeta, int]:
    size = int(facts.pop("bytes"))
    fitted: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    fitted["id"] = AttemptId(**facts["id"])
    return BlockMeta(**fitted), size


def _failure(uri: str, basis: str) -> SavedFailure:
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    try:
        facts = _unsealed(data, uri)
        _check_basis(facts, basis, uri)
        kind = getattr(errors, facts["error"], RayMrError)
        if not (isinstance(kind, type) and issubclass(kind, RayMrError)):
            kind = RayMrError
        error = kind(facts["message"], facts["hint"])
        return SavedFailure(InputVersion(**facts["version"]), error, str(facts["limits"]))
    except (ValueError, KeyError, TypeError) as odd:
        raise CorruptObject(f"{uri} makes no sense: {odd}") from None


def pieces_by_first(pieces: Sequence[SavedSplit]) -> Iterator[SavedSplit]:
    """Pieces in an order that does not depend on names: by their first input, the longest first."""
    yield from sorted(pieces, key=lambda piece: (piece.versions[0].uri, -len(piece.versions)))
