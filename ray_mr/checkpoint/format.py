r"""Files of a checkpoint: their names, their bytes, and the values they hold.

A checkpoint is a folder (or a prefix of a bucket) beside the output, see ``locate_state``:

    run.json                     run, owner and generations; JSON
    piece-<24 hex>-<8 hex>       a *saved split*: one committed attempt with its blocks
    failed-<24 hex>-<8 hex>      an input that has failed for good
    mapped-<8 hex>               the names of all inputs of a run that has tried each of them

The 24 digits are a digest of the inputs' URIs (``make_name``), the last 8 the generation.

A saved split:

    ray_mr piece 1\n             magic
    <length>\n                   of the JSON below, in decimal
    <64 hex>\n                   SHA-256 of the JSON
    {"basis": ..., "versions": [...], "id": ..., "files": [...], "counts": ..., "blocks": [...]}
    <bytes of block 0> <bytes of block 1> ...
    <32 bytes>                   SHA-256 of everything before it

``failed-`` is ``<64 hex>\n<JSON>``.  ``mapped-`` is a SHA-256 digest (32 bytes), followed by the
sorted 8-byte hashes of names that it covers.

Nothing in a file is trusted.  Reading a file with a wrong checksum, or of another basis
(``Generation.basis``), raises ``CorruptObject``.  Nothing is unpickled.  The JSON has the names of
the fields of ``AttemptEnd``, ``FileCounts``, ``BlockMeta`` and ``AttemptId``: renaming one of them
changes the format.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ray_mr import errors
from ray_mr.errors import CorruptObject, RayMrError, StoreUnavailable
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, FileCounts
from ray_mr.stores.layout import is_prefix
from ray_mr.stores.registry import store_for
from ray_mr.system import strict_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import BinaryIO

    from ray_mr.model import Split, StoredObject

MAGIC = b"ray_mr piece 1\n"
RUN = "run.json"
SPLIT = "piece"
FAILURE = "failed"
MAPPED = "mapped"
KINDS = frozenset({SPLIT, FAILURE, MAPPED})
"""Prefixes of the names of files with finished work."""
HASH_BYTES = 8
DIGEST_BYTES = hashlib.sha256().digest_size
MAX_HEAD_BYTES = 256 << 20
"""Maximum bytes of ``run.json``, or of a saved split before its blocks."""
READ_BYTES = 1 << 20
"""Bytes of a local input per read."""
T = TypeVar("T")
_EXCLUDED = {"failed", "error", "suspect", "fetch_retries", "poison", "usage", "files", "id"}
"""Fields of an ``AttemptEnd`` that are not among the ``counts`` of a saved split."""


def locate_state(output: str) -> str:
    """Return the prefix of the checkpoint of runs with this output; it ends in ``/``."""
    if is_prefix(output):
        return f"{output}_ray_mr_state/"
    folder, _, name = output.rpartition("/")
    return f"{folder}/.{name}.ray-mr-state/"


# ---------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class InputVersion:
    """An input as it was when it was mapped."""

    uri: str
    size_bytes: int
    content: str
    """The store's ETag; for a local file, whose time proves nothing, a digest of its bytes."""

    @classmethod
    def of(cls, obj: StoredObject) -> InputVersion:
        """Return the current version of an object; a local file is read whole.

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
class Generation:
    """A run that started anew, and the runs that resumed it."""

    ident: str
    """Suffix of the names of its files."""
    facts: Mapping[str, str]
    """Fingerprint of everything its map output depends on; see ``matching.make_fingerprint``."""

    @classmethod
    def make(cls, facts: Mapping[str, str]) -> Generation:
        """Return a new generation with this fingerprint."""
        return cls(secrets.token_hex(4), dict(facts))

    @classmethod
    def parse(cls, facts: Mapping[str, Any]) -> Generation:
        """Return a generation from its entry in ``run.json``."""
        pairs = {str(key): str(value) for key, value in facts["facts"].items()}
        return cls(str(facts["ident"]), pairs)

    @property
    def basis(self) -> str:
        """Digest that each of its files holds.

        A run that was late to detect its end may still write while another run, of another mapper,
        uses the same folder.
        """
        text = json.dumps([self.ident, dict(self.facts)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class SavedSplit:
    """A committed attempt on disk, without the bytes of its blocks."""

    uri: str
    """The file."""
    versions: tuple[InputVersion, ...]
    end: AttemptEnd
    blocks: tuple[tuple[BlockMeta, int], ...]
    """Each block with its number of bytes."""

    def convert(self, split: Split, ident: AttemptId) -> tuple[AttemptEnd, list[BlockMeta]]:
        """Return its counts and blocks as those of an attempt of a split of another plan."""
        before = sorted(one.position for one in self.end.files)
        position_of = dict(zip(before, (item.position for item in split.inputs), strict=True))
        files = tuple(replace(one, position=position_of[one.position]) for one in self.end.files)
        metas = [replace(meta, id=ident) for meta, _ in self.blocks]
        return replace(self.end, id=ident, files=files), metas

    def read_blocks(self, put: Callable[[bytes], Any]) -> list[Any]:
        """Return the results of ``put``, called with the bytes of each block.

        Raises:
            CorruptObject: The file is not what was written.
            StoreError: It cannot be read.
        """

        def read(uri: str) -> list[Any]:
            with store_for(uri).open(uri) as stream:
                sha = hashlib.sha256(_read_head(stream, uri))
                refs = []
                for _, size in self.blocks:
                    data = _read_exactly(stream, size, uri)
                    sha.update(data)
                    refs.append(put(data))
                if stream.read(DIGEST_BYTES + 1) != sha.digest():
                    raise CorruptObject(f"{uri} is damaged")
            return refs

        return read_twice(read, self.uri)


@dataclass(frozen=True, slots=True)
class SavedFailure:
    """An input that has failed for good, and why."""

    version: InputVersion
    error: RayMrError
    limits: str
    """Digest of the options that limited the attempts; see ``matching.digest_limits``."""


# ---------------------------------------------------------------- names


def make_name(kind: str, versions: Sequence[InputVersion]) -> str:
    """Return the name of a file for these inputs, without its generation."""
    words = "\0".join(version.uri for version in versions).encode("utf-8", "surrogateescape")
    return f"{kind}-{hashlib.sha256(words).hexdigest()[:24]}"


def parse_name(uri: str) -> tuple[str, str]:
    """Return ``("piece", "0a1b2c3d")`` for ``.../piece-9f86d081884c7d65-0a1b2c3d``."""
    name = uri.rpartition("/")[2]
    return name.partition("-")[0], name.rpartition("-")[2]


def hash_name(uri: str) -> bytes:
    """Return eight bytes that stand for an input in ``mapped-``."""
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).digest()[:HASH_BYTES]


# ---------------------------------------------------------------- writing


def encode_head(
    versions: Sequence[InputVersion], end: AttemptEnd, metas: Sequence[BlockMeta], basis: str
) -> bytes:
    """Return the bytes of a saved split before its blocks."""
    counts = {
        field.name: getattr(end, field.name) for field in fields(end) if field.name not in _EXCLUDED
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
    return MAGIC + f"{len(text)}\n".encode() + _seal(text)


def encode_failure(failure: SavedFailure, basis: str) -> bytes:
    """Return the bytes of a ``failed-`` file."""
    error = failure.error
    facts = {
        "version": asdict(failure.version),
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "limits": failure.limits,
        "basis": basis,
    }
    return _seal(strict_json.dumps(facts).encode())


def encode_mapped(uris: Iterable[str]) -> bytes:
    """Return the bytes of a ``mapped-`` file with these inputs."""
    data = b"".join(sorted({hash_name(uri) for uri in uris}))
    return hashlib.sha256(data).digest() + data


def _seal(text: bytes) -> bytes:
    """Return text with its own checksum in front, so that it can be verified by itself."""
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


# ---------------------------------------------------------------- reading


def read_twice(read: Callable[..., T], uri: str, *words: str) -> T:
    """Return what ``read`` returns; call it a second time if the bytes were damaged on the way."""
    try:
        return read(uri, *words)
    except (CorruptObject, StoreUnavailable):
        return read(uri, *words)


def read_run(uri: str) -> Any:
    """Return the JSON of ``run.json``.

    Raises:
        CorruptObject: It is not JSON.
    """
    with store_for(uri).open(uri) as stream:
        data = stream.read(MAX_HEAD_BYTES)
    try:
        return strict_json.loads(data)
    except ValueError:
        raise CorruptObject(f"{uri} is damaged") from None


def read_split(uri: str, basis: str) -> SavedSplit:
    """Read a saved split, but not its blocks.

    Raises:
        CorruptObject: It is damaged, or of another basis.
    """
    with store_for(uri).open(uri) as stream:
        head = _read_head(stream, uri)
    sealed = head[len(MAGIC) :].partition(b"\n")[2]
    try:
        facts = _unseal(sealed, uri)
        _check_basis(facts, basis, uri)
        ident = AttemptId(**facts["id"])
        files = tuple(FileCounts(**one) for one in facts["files"])
        end = AttemptEnd(ident, files, **facts["counts"])
        blocks = tuple(_parse_block(one) for one in facts["blocks"])
        versions = tuple(InputVersion(**one) for one in facts["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(f"{uri} cannot be parsed: {error}") from None
    if len(versions) != len(files) or end.blocks != len(blocks):
        raise CorruptObject(f"{uri} contradicts itself")
    return SavedSplit(uri, versions, end, blocks)


def read_failure(uri: str, basis: str) -> SavedFailure:
    """Read a ``failed-`` file.

    Raises:
        CorruptObject: It is damaged, or of another basis.
    """
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    try:
        facts = _unseal(data, uri)
        _check_basis(facts, basis, uri)
        kind = getattr(errors, facts["error"], RayMrError)
        if not (isinstance(kind, type) and issubclass(kind, RayMrError)):
            kind = RayMrError
        error = kind(facts["message"], facts["hint"])
        return SavedFailure(InputVersion(**facts["version"]), error, str(facts["limits"]))
    except (ValueError, KeyError, TypeError) as odd:
        raise CorruptObject(f"{uri} cannot be parsed: {odd}") from None


def read_mapped(uri: str) -> frozenset[bytes]:
    """Return the hashes in a ``mapped-`` file.

    Raises:
        CorruptObject: It is damaged.
    """
    with store_for(uri).open(uri) as stream:
        data = stream.read()
    digest, data = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise CorruptObject(f"{uri} is damaged")
    return frozenset(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def _read_head(stream: BinaryIO, uri: str) -> bytes:
    """Read the bytes of a saved split before its blocks."""
    magic = _read_exactly(stream, len(MAGIC), uri)
    size = stream.readline(20)
    if magic != MAGIC or not size.strip().isdigit() or int(size) > MAX_HEAD_BYTES:
        raise CorruptObject(f"{uri} is not a saved split")
    return magic + size + _read_exactly(stream, 2 * DIGEST_BYTES + 1 + int(size), uri)


def _read_exactly(stream: BinaryIO, size: int, uri: str) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise CorruptObject(f"{uri} is cut short")
    return data


def _unseal(data: bytes, uri: str) -> Any:
    digest, _, text = data.partition(b"\n")
    if digest != hashlib.sha256(text).hexdigest().encode():
        raise CorruptObject(f"{uri} is damaged")
    return strict_json.loads(text)


def _check_basis(facts: dict[str, Any], basis: str, uri: str) -> None:
    if facts["basis"] != basis:
        raise CorruptObject(f"{uri} is of another run")


def _parse_block(facts: dict[str, Any]) -> tuple[BlockMeta, int]:
    size = int(facts.pop("bytes"))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
    values["id"] = AttemptId(**facts["id"])
    return BlockMeta(**values), size
