"""Brotli (RFC 7932): a single stream without a magic number and without a checksum."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import brotli

from ray_mr.codecs.contract import CHUNK_BYTES, INPUT_BYTES, DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_LIMIT_BYTES = CHUNK_BYTES // 4
"""Output limit passed to the library, which may exceed it about twice."""


def decode_brotli(file: BinaryIO) -> Iterator[bytes]:
    """Decode the stream of a file."""
    data = file.read(INPUT_BYTES)
    if not data:
        return
    stream = brotli.Decompressor()
    while not stream.is_finished():
        try:
            chunk = stream.process(data, output_buffer_limit=_LIMIT_BYTES)
        except brotli.error as error:
            raise DecodeError(
                f"it is damaged, or something else follows its end ({error})"
            ) from None
        yield chunk
        is_at_end = not data and not chunk
        data = file.read(INPUT_BYTES) if stream.can_accept_more_data() else b""
        if is_at_end and not data and not stream.is_finished():
            raise DecodeError("it ends early")
    if data or file.read(1):
        raise DecodeError("something else follows its end")


def check_brotli(head: bytes) -> None:
    """Check that a file's first bytes decode; about nine in ten other files do not.

    Raises:
        DecodeError: They do not.
    """
    next(decode_brotli(io.BytesIO(head)), None)
