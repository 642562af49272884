"""The contract of the framing: frames arrive whole, however the bytes are cut; junk is refused."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_mr.child import wire
from ray_mr.child.wire import Decoder, Frame
from ray_mr.errors import ChildProtocol
from ray_mr.shuffle.pairs import pack_pairs
from samples import rows

NAMES = st.from_regex(r"[a-z]{1,16}", fullmatch=True)
NUMBERS = st.integers(0, 10**19 - 1)
FRAMES = st.builds(Frame, NAMES, NUMBERS, NUMBERS, st.binary(max_size=300))


def encode(frame: Frame) -> bytes:
    """Return the bytes of a frame."""
    return wire.encode(frame.name, frame.position, frame.count, frame.payload)


def decode(*pieces: bytes) -> list[Frame]:
    """Return the frames of a whole stream."""
    decoder = Decoder()
    frames = [frame for piece in pieces for frame in decoder.feed(piece)]
    decoder.close()
    return frames


SAMPLE = [
    Frame("hello", 0, 0, b'{"codecs": []}'),
    Frame("text", 7, 0, b"a 0 0 0\nb\n\n"),
    Frame("pairs", 10**19 - 1, 3, b""),
    Frame("done", 0, 0, b"\n"),
]
STREAM = b"".join(map(encode, SAMPLE))


def test_bytes_are_as_described() -> None:
    """A frame is a head of four words, a newline and the payload."""
    assert wire.encode("text", 3, 4, b"ab\n") == b"text 3 4 3\nab\n"
    assert wire.encode_file(5, "gz", b"./s3/\xff k") == b"file 5 0 11\ngz\n./s3/\xff k"


def test_frame_fed_byte_by_byte_ends_with_its_last() -> None:
    """A frame is returned with its last byte, and not before."""
    decoder = Decoder()
    ends = list(itertools.accumulate(len(encode(frame)) for frame in SAMPLE))
    for at in range(len(STREAM)):
        frames = list(decoder.feed(STREAM[at : at + 1]))
        assert frames == ([SAMPLE[ends.index(at + 1)]] if at + 1 in ends else [])
    decoder.close()


def test_stream_cut_in_three_anywhere_is_decoded() -> None:
    for low, high in itertools.combinations(range(len(STREAM) + 1), 2):
        assert decode(STREAM[:low], STREAM[low:high], STREAM[high:]) == SAMPLE


@pytest.mark.slow
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 3000), max_size=8))
def test_frames_in_any_pieces_round_trip(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(map(encode, frames))
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert decode(*(data[low:high] for low, high in itertools.pairwise(edges))) == frames


@given(st.integers(1, len(STREAM) - 1))
def test_stream_that_ends_within_a_frame_is_refused(at: int) -> None:
    ends = list(itertools.accumulate(len(encode(frame)) for frame in SAMPLE))
    if at in ends:
        assert decode(STREAM[:at]) == SAMPLE[: ends.index(at) + 1]
    else:
        with pytest.raises(ChildProtocol, match="ended within a frame"):
            decode(STREAM[:at])


@given(st.binary(max_size=400), st.integers(1, 400))
def test_junk_raises_child_protocol_or_is_frames(junk: bytes, step: int) -> None:
    """The outcome is the same however the bytes are cut."""

    def outcome(*pieces: bytes) -> list[object]:
        decoder = Decoder()
        results: list[object] = []
        try:
            for piece in pieces:
                results += list(decoder.feed(piece))
            decoder.close()
        except ChildProtocol:
            results.append("refused")
        return results

    pieces = [junk[at : at + step] for at in range(0, len(junk), step)]
    assert outcome(junk)[-1:] == outcome(*pieces)[-1:]


@pytest.mark.parametrize(
    "head",
    [
        b"Traceback (most recent call last):\n",
        b"\n",
        b"text 0 0\n",
        b"text 0 0 1 1\n",
        b"text -1 0 0\n",
        b"text 0 0 -1\n",
        b"TEXT 0 0 0\n",
        b"text 0 0 0\r\n",
        b" text 0 0 0\n",
        b"text\t0\t0\t0\n",
        b"abcdefghijklmnopq 0 0 0\n",
        b"text 0 0 1e3\n",
        "text 0 0 ٣\n".encode(),
        b"text 0 0 00000000000000000000\n",
        b"x" * 80,
        b"text 0 0 %d\n" % (wire.MAX_PAYLOAD_BYTES + 1),
        b"text 0 0 9999999999999999999\n",
    ],
)
def test_malformed_head_is_refused_at_once(head: bytes) -> None:
    """The frames before it still count."""
    decoder = Decoder()
    frames = decoder.feed(encode(SAMPLE[0]) + head)
    assert next(frames) == SAMPLE[0]
    with pytest.raises(ChildProtocol, match="not a frame") as caught:
        next(frames)
    assert "own output" in caught.value.hint
    assert len(caught.value.message) < 250


def test_largest_head_fits() -> None:
    """The longest name with the largest numbers is not junk."""
    numbers = f" {10**19 - 1}" * 3
    assert len("a" * 16 + numbers + "\n") <= wire.MAX_HEAD_BYTES
    frame = Frame("a" * 16, 10**19 - 1, 10**19 - 1, b"x")
    assert decode(encode(frame)) == [frame]


@pytest.mark.slow
def test_many_or_large_frames_take_linear_time() -> None:
    """50,000 frames in one piece, or 64 MiB in pieces of a pipe, take no quadratic time."""
    small = [Frame("text", number, 0, b"x\n") for number in range(50_000)]
    assert decode(b"".join(map(encode, small))) == small
    large = encode(Frame("pairs", 0, 0, bytes(64 << 20)))
    pieces = [large[at : at + 65536] for at in range(0, len(large), 65536)]
    assert len(decode(*pieces)[0].payload) == 64 << 20


def test_pairs_payload_has_documented_layout() -> None:
    """The lengths of the keys, of the values, the keys, the values; little-endian."""
    payload = pack_pairs(rows([(b"k", b"vv"), (b"", b"x")])).payload
    assert payload == struct.pack("<4I", 1, 0, 2, 1) + b"kvvx"
