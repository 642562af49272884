"""Store of a checkpoint: finished work beside an output, from which another run can continue.

A checkpoint is a folder of small files, each written whole or not at all; ``format`` describes
them.  A run uses it like this:

1. ``read_state`` returns the *generations* that hold something, and ``read_generation`` what one of
   them holds.
2. ``begin`` makes this run the owner.  Nothing is deleted.
3. ``save_split`` and ``save_failure`` write finished work; threads call them (``writer``).
4. ``save_mapped`` notes that every input has been tried.
5. ``release`` ends the ownership, or ``clear`` removes everything.

Finished work is destroyed only when newer work has replaced it.  Each file belongs to a generation:
a run that started anew, and the runs that resumed it.  The name of a file ends in its generation,
so files of two generations stand side by side:

1. ``begin`` adds a new generation to ``run.json`` in front of those that hold finished work, or
   continues one of them.
2. The first ``save_split`` of a run calls ``delete_others``, which deletes the other generations.
3. ``release`` leaves in ``run.json`` the generations that hold something.

A process that is killed between two of these steps leaves generations that are read as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ray_mr.checkpoint.format import (
    FAILURE,
    KINDS,
    MAPPED,
    RUN,
    SPLIT,
    Generation,
    InputVersion,
    SavedFailure,
    SavedSplit,
    encode_failure,
    encode_head,
    encode_mapped,
    locate_state,
    make_name,
    parse_name,
    read_failure,
    read_mapped,
    read_run,
    read_split,
    read_twice,
)
from ray_mr.errors import CorruptObject, JobError, StoreError
from ray_mr.stores.publication import write_object
from ray_mr.stores.registry import store_for, writable_store_for
from ray_mr.system import host, strict_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ray_mr.errors import RayMrError
    from ray_mr.model import AttemptEnd, BlockMeta, Split, StoredObject


@dataclass(frozen=True, slots=True)
class StoredState:
    """The generations beside an output that hold something."""

    generations: tuple[Generation, ...]
    """The newest first."""
    split_count: int
    """Saved splits of all generations."""

    def choose(self, facts: Mapping[str, str]) -> Generation | None:
        """Return the newest generation with this fingerprint, or else the newest."""
        same = [each for each in self.generations if dict(each.facts) == dict(facts)]
        return next(iter([*same, *self.generations]), None)


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """Finished work of one generation."""

    generation: Generation
    splits: tuple[SavedSplit, ...]
    failures: Mapping[str, SavedFailure]
    """Failures by URI."""
    mapped: frozenset[bytes] | None
    """``format.hash_name`` of every input, if each has been tried."""
    damaged_count: int
    """Files that cannot be used."""


class CheckpointStore:
    """The checkpoint beside one output.

    Args:
        output: Absolute path or URI of the output.
    """

    def __init__(self, output: str) -> None:
        self.uri = locate_state(output)
        """Prefix of the files."""
        self.is_replacing = False
        """Whether this run may replace an older result, which stands until then."""
        self._store = writable_store_for(output)
        self._run_id = ""
        self._generation = Generation("", {})
        self._others: tuple[Generation, ...] = ()
        self._failures: frozenset[str] = frozenset()  # URIs that failed in the resumed generation
        self._lock = threading.Lock()
        self._has_deleted_others = False

    # ------------------------------------------------------------ ownership

    def begin(
        self,
        run_id: str,
        facts: Mapping[str, str],
        state: StoredState | None = None,
        resumed: PreviousRun | None = None,
    ) -> None:
        """Make this run the owner; what is saved from here on belongs to it.

        Args:
            run_id: Of this run.
            facts: Its fingerprint.
            state: Generations that are there already; they stay until ``delete_others``.
            resumed: The generation to go on with; ``None`` starts a new one.

        Raises:
            StoreError: The store cannot be written.
        """
        self._run_id = run_id
        self._generation = resumed.generation if resumed else Generation.make(facts)
        before = state.generations if state else ()
        self._others = tuple(each for each in before if each.ident != self._generation.ident)
        self._failures = frozenset(resumed.failures if resumed else ())
        self._write_run(host.make_process_mark(), [self._generation, *self._others])

    def release(self) -> bool:
        """End the ownership, and remove the checkpoint if it holds nothing.

        Returns:
            Whether it holds something.

        Raises:
            StoreError: The store cannot be written.
        """
        counts = self._count_files()
        only_mapped = {ident for ident, kinds in counts.items() if kinds.keys() <= {MAPPED}}
        useful = counts.keys() - only_mapped
        generations = [g for g in (self._generation, *self._others) if g.ident in useful]
        if generations:
            self._write_run("", generations)
        else:
            self.clear()
        return bool(generations)

    def check_owner(self) -> None:
        """Refuse to go on while another process works with this output.

        Raises:
            JobError: A living process of this machine does.
            StoreError: The store cannot be read.
        """
        owner = str((self._read_run() or {}).get("owner", ""))
        if host.is_process_alive(owner):
            raise JobError(
                f"process {owner.split('/')[-2]} is at work on this output",
                "wait for its end, end it, or choose another --output",
            )

    def is_owner(self) -> bool:
        """Return whether no other run has begun since ``begin``.

        Raises:
            StoreError: The store cannot be read.
        """
        run = self._read_run() or {}
        return bool(run.get("run_id") == self._run_id)

    def restore_owner(self) -> None:
        """Make this run the owner again if the checkpoint was removed.

        Raises:
            StoreError: The store cannot be written.
        """
        if not self.exists():
            self._write_run(host.make_process_mark(), [self._generation])

    def was_replacing(self) -> bool:
        """Return whether the run that left the checkpoint was to replace an older result.

        Raises:
            StoreError: The store cannot be read.
        """
        return (self._read_run() or {}).get("replaces") is True

    def exists(self) -> bool:
        """Return whether a run has left a checkpoint."""
        return self._store.exists(self.uri + RUN)

    def clear(self) -> None:
        """Remove the checkpoint, with files that a killed run was about to write."""
        self._store.clear(self.uri, last=RUN)

    def delete_others(self) -> None:
        """Delete the files of all generations but this run's.

        Raises:
            StoreError: The store refuses.
        """
        for obj in list(self._store.find(self.uri)):
            kind, ident = parse_name(obj.uri)
            if kind in KINDS and ident != self._generation.ident:
                self._store.delete(obj.uri)

    # ------------------------------------------------------------ saving

    def save_split(
        self, split: Split, end: AttemptEnd, metas: Sequence[BlockMeta], blocks: Iterable[Any]
    ) -> None:
        """Save a committed attempt.

        Args:
            split: Inputs of the attempt.
            end: Its counts.
            metas: Its blocks.
            blocks: Bytes of each block; the next is taken when one is written.

        Raises:
            StoreError: The store cannot be written.
            DataError: An input has changed, or a block has another length than it should.
        """
        versions = [InputVersion.of(item.object) for item in split.inputs]
        for item in split.inputs:
            if error := store_for(item.object.uri).detect_change(item.object):
                raise error
        head = encode_head(versions, end, metas, self._generation.basis)
        staged = self._store.stage(self._make_uri(SPLIT, versions))
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
        self._delete_replaced(versions)

    def save_failure(self, obj: StoredObject, error: RayMrError, limits: str) -> None:
        """Save that an input has failed for good.

        Args:
            obj: The input.
            error: Why it failed.
            limits: See ``SavedFailure.limits``.

        Raises:
            StoreError: The store cannot be written, or the input cannot be read.
        """
        failure = SavedFailure(InputVersion.of(obj), error, limits)
        data = encode_failure(failure, self._generation.basis)
        write_object(self._make_uri(FAILURE, [failure.version]), data)

    def save_mapped(self, uris: Iterable[str]) -> None:
        """Save that every input has been tried; these are all of them."""
        uri = f"{self.uri}{MAPPED}-{self._generation.ident}"
        write_object(uri, encode_mapped(uris))

    def _delete_replaced(self, versions: Sequence[InputVersion]) -> None:
        """Delete what a saved split has replaced; none of it is read any more."""
        with self._lock:
            is_first, self._has_deleted_others = not self._has_deleted_others, True
        with contextlib.suppress(StoreError):  # a file that stays is deleted at the end
            for version in versions:
                if version.uri in self._failures:
                    self._store.delete(self._make_uri(FAILURE, [version]))
            if is_first:
                self.delete_others()

    def _make_uri(self, kind: str, versions: Sequence[InputVersion]) -> str:
        return f"{self.uri}{make_name(kind, versions)}-{self._generation.ident}"

    def _write_run(self, owner: str, generations: Sequence[Generation]) -> None:
        run = {
            "run_id": self._run_id,
            "owner": owner,
            "replaces": self.is_replacing,
            "generations": [asdict(each) for each in generations],
        }
        write_object(self.uri + RUN, strict_json.dumps(run, indent=1).encode())

    # ------------------------------------------------------------ reading

    def read_state(self) -> StoredState | None:
        """Return the generations that hold something; ``None`` if ``run.json`` is unreadable.

        Raises:
            StoreError: The store cannot be read.
        """
        run = self._read_run()
        if run is None:
            return None
        try:
            generations = [Generation.parse(facts) for facts in run["generations"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        counts = self._count_files()
        useful = tuple(each for each in generations if each.ident in counts)
        return StoredState(useful, sum(counts[each.ident][SPLIT] for each in useful))

    def read_generation(self, generation: Generation, others: Collection[str] = ()) -> PreviousRun:
        """Return the finished work of a generation.

        Args:
            generation: Which one.
            others: Idents of other known generations; files of any further one count as damaged.

        Raises:
            StoreError: The store cannot be read.
        """
        splits: list[SavedSplit] = []
        failures: dict[str, SavedFailure] = {}
        mapped, damaged_count = None, 0
        for obj in self._store.find(self.uri):
            kind, ident = parse_name(obj.uri)
            if kind not in KINDS or (ident in others and ident != generation.ident):
                continue
            try:
                if ident != generation.ident:
                    damaged_count += 1
                elif kind == MAPPED:
                    mapped = read_twice(read_mapped, obj.uri)
                elif kind == SPLIT:
                    split = read_twice(read_split, obj.uri, generation.basis)
                    splits.append(split)
                else:
                    failure = read_twice(read_failure, obj.uri, generation.basis)
                    failures[failure.version.uri] = failure
            except CorruptObject:
                damaged_count += 1
        return PreviousRun(generation, tuple(splits), failures, mapped, damaged_count)

    def _read_run(self) -> dict[str, Any] | None:
        if not self.exists():
            return None
        try:
            run = read_twice(read_run, self.uri + RUN)
        except CorruptObject:
            return None
        return run if isinstance(run, dict) else None

    def _count_files(self) -> dict[str, Counter[str]]:
        """Return the number of files of each kind, by generation."""
        counts: dict[str, Counter[str]] = {}
        for obj in self._store.find(self.uri):
            kind, ident = parse_name(obj.uri)
            if kind in KINDS:
                counts.setdefault(ident, Counter())[kind] += 1
        return counts
