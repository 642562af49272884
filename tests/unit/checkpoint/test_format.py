"""The bytes of a checkpoint's files, which a run of another version of ray_mr may read."""

from __future__ import annotations

from ray_mr.checkpoint.format import (
    Generation,
    InputVersion,
    SavedFailure,
    encode_failure,
    encode_head,
    encode_mapped,
    locate_state,
    make_name,
    parse_name,
)
from ray_mr.errors import ChildCrashed
from ray_mr.model import AttemptEnd, AttemptId, BlockMeta, FileCounts

VERSION = InputVersion("/in/a.gz", 10, "e1")
IDENT = AttemptId(3, 9, 1)


def test_head_of_a_saved_split_is_what_it_always_was() -> None:
    end = AttemptEnd(IDENT, (FileCounts(9, 3, 2, 1),), counters={"a,b": 3}, rows=3, blocks=1)
    meta = BlockMeta(IDENT, 0, 0, (1, 2), (0, 3, 7), (123, 45))
    head = encode_head([VERSION], end, [meta], "basis")
    magic, size, digest, text = head.split(b"\n")
    assert magic == b"ray_mr piece 1"
    assert int(size) == len(text)
    assert digest == b"9856d38068c710abcb077a12b220b0e94dfe428004ad6041395e1352c91dbfc5"
    assert text == (
        b'{"basis": "basis", "versions": [{"uri": "/in/a.gz", "size_bytes": 10, "content": '
        b'"e1"}], "id": {"split": 3, "start": 9, "attempt": 1}, "files": [{"position": 9, '
        b'"records": 3, "mapped": 2, "bad": 1, "decoded_bytes": 0, "sample": ""}], "counts": '
        b'{"counters": {"a,b": 3}, "rows": 3, "mapped_rows": 0, "bad_values": 0, "blocks": 1, '
        b'"seconds": {}, "bad_value": ""}, "blocks": [{"id": {"split": 3, "start": 9, '
        b'"attempt": 1}, "sequence": 0, "place": 0, "rows": [1, 2], "offsets": [0, 3, 7], '
        b'"checksums": [123, 45], "bytes": 7}]}'
    )


def test_failure_file_is_what_it_always_was() -> None:
    failure = SavedFailure(VERSION, ChildCrashed("died", "look"), "limits")
    assert encode_failure(failure, "basis").partition(b"\n")[2] == (
        b'{"version": {"uri": "/in/a.gz", "size_bytes": 10, "content": "e1"}, '
        b'"error": "ChildCrashed", "message": "died", "hint": "look", "limits": "limits", '
        b'"basis": "basis"}'
    )


def test_names_and_digests_are_what_they_always_were() -> None:
    assert locate_state("/out/result.txt") == "/out/.result.txt.ray-mr-state/"
    assert locate_state("s3://bucket/out/") == "s3://bucket/out/_ray_mr_state/"
    assert make_name("piece", [VERSION]) == "piece-e26451981124b4e3f01dc1a5"
    assert parse_name("/x/piece-9f86d081884c7d65-0a1b2c3d") == ("piece", "0a1b2c3d")
    assert Generation("0a1b2c3d", {"the mapper": "abc"}).basis == "deac5ab27ccd3ebea5b559e10c7d773d"
    digest, hashes = (
        "a1db921952ff48b0dcabd332d4bf2fd5d5b7d0ba9172894ed1b69fae3e1093c8",
        "4d67c533e1d87291a21e9638042dd30d",
    )
    assert encode_mapped(["/in/b", "/in/a"]).hex() == digest + hashes
