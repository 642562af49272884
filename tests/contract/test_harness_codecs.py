"""The contract of Python's harness with compressed files: decoded to their end, or corrupt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import zstandard

from python_harness import converse, map_files
from ray_mr.child.harness_child import HarnessChild, map_records
from ray_mr.child.messages import FileDelivery, Text
from ray_mr.errors import CorruptObject
from samples import COMPRESS, make_launch, python
from speaker import collect_counts, collect_failures

if TYPE_CHECKING:
    from pathlib import Path

REPR = "def mapper(*args): return repr(args) + '\\n'"

CODECS = [codec for codec in COMPRESS if codec != "none"]
LINES = b"".join(b"line %d %d\n" % (n, n * n) for n in range(3000))


class TestCodecs:
    """A file is decoded to its end, or it is corrupt."""

    COUNT = "def mapper(file, line): return line + '\\n'"

    @pytest.mark.parametrize("codec", CODECS)
    def test_harness_can_decode_every_codec(self, tmp_path: Path, codec: str) -> None:
        child = HarnessChild(make_launch(tmp_path, python(REPR)), "map", ("mapper",), "text")
        list(map_records(child, []))
        assert child.can_decode(codec)
        assert child.can_decode("none")
        assert not child.can_decode("rar")

    @pytest.mark.parametrize("codec", COMPRESS)
    def test_members_of_a_file_are_joined(self, tmp_path: Path, codec: str) -> None:
        """One member, three with an empty one between, a line across two, and an empty file."""
        press = COMPRESS[codec]
        a, b = LINES[:12_345], LINES[12_345:]
        files = [
            (codec, press(LINES)),
            (codec, press(a) + press(b"") + press(b)),
            (codec, b""),
            (codec, press(b"")),
            (codec, press(b"no newline")),
        ]
        output = map_files(tmp_path, self.COUNT, *files)
        assert output == LINES + LINES + b"no newline\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("codec", CODECS)
    def test_truncated_file_is_corrupt(self, tmp_path: Path, codec: str) -> None:
        """No record of a file counts that is cut anywhere but between two members."""
        press = COMPRESS[codec]
        first, second = press(LINES), press(LINES[:5000])
        whole = first + second
        rng = random.Random(1)
        cuts = {1, 2, 5, 13, 14, len(first) - 1, len(first) + 1, len(first) + 3, len(whole) - 1}
        cuts |= {len(whole) - 4, len(whole) - 9} | {rng.randrange(1, len(whole)) for _ in range(25)}
        cut_points = sorted(cuts - {len(first)})
        output = converse(
            tmp_path, python(self.COUNT), [(codec, whole[:cut]) for cut in cut_points]
        )
        assert collect_counts(output) == {}
        errors = collect_failures(output)
        assert [cut_points[position] for position in errors] == cut_points
        assert all(isinstance(error, CorruptObject) for error in errors.values())

    @pytest.mark.parametrize("codec", CODECS)
    def test_damaged_file_is_corrupt(self, tmp_path: Path, codec: str) -> None:
        """Data after the end, a flipped bit in the middle, or another format."""
        data = COMPRESS[codec](LINES)
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
        files = [data + b"junk", data + b"\n", data + b"x" * 100, flipped, b"plain\ntext\n" * 9]
        if codec == "lzma":
            del files[3]  # it has no checksum: a flipped bit may go unseen
        if codec in {"bz2", "lzma", "zst"}:
            files.append(data + b"\0")
        if codec == "xz":
            files += [data + b"\0" * 3, data + b"\0" * 5 + data]
        good = COMPRESS[codec](b"good\n")
        output = converse(tmp_path, python(self.COUNT), [(codec, file) for file in [*files, good]])
        assert list(collect_counts(output)) == [len(files)]
        assert all(isinstance(error, CorruptObject) for error in collect_failures(output).values())
        assert output[-2] == Text(b"good\n"), "nothing of the bad files is sent with the good one"

    def test_zero_padding_of_gz_and_xz_is_ignored(self, tmp_path: Path) -> None:
        """Tools write any number of zero bytes after gzip, and a multiple of four after xz."""
        gz, xz = COMPRESS["gz"](b"a\n"), COMPRESS["xz"](b"a\n")
        files = [("gz", gz + b"\0" * 513 + gz), ("gz", gz + b"\0"), ("xz", xz + b"\0" * 8 + xz)]
        assert map_files(tmp_path, self.COUNT, *files) == b"a\n" * 5

    def test_skippable_zst_frame_is_skipped(self, tmp_path: Path) -> None:
        """The frame may come first, between others or last."""
        skip = b"\x5a\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
        zst = COMPRESS["zst"](b"a\n")
        files = [("zst", skip + zst), ("zst", zst + skip + zst), ("zst", zst + skip)]
        assert map_files(tmp_path, self.COUNT, *files) == b"a\n" * 4

    def test_zst_file_with_wide_window_is_read(self, tmp_path: Path) -> None:
        """The file is as `zstd --long=30` writes it."""
        parameters = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        whole = packer.compress(b"a\n") + packer.flush()
        assert map_files(tmp_path, self.COUNT, ("zst", whole)) == b"a\n"

    @pytest.mark.slow
    def test_compression_bomb_is_decoded_in_pieces(self, tmp_path: Path) -> None:
        """100 MB of zeros are stored in a few kilobytes."""
        source = "def mapper(file, line): return '%d\\n' % len(line)"
        for codec in ("gz", "zst"):
            bomb = COMPRESS[codec]((b"\0" * 999_999 + b"\n") * 100)
            assert map_files(tmp_path, source, (codec, bomb)) == b"999999\n" * 100

    def test_path_of_odd_bytes_arrives_unchanged(self, tmp_path: Path) -> None:
        """A path may have any bytes but a newline."""
        name = b"\xff \t'x\xc3\xbc"
        child = HarnessChild(make_launch(tmp_path, python(REPR)), "map", ("mapper",), "text")
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(b"a\n")
        output = list(map_records(child, [FileDelivery(0, "none", name)]))
        text = next(item for item in output if isinstance(item, Text))
        assert text.data.decode() == repr((name.decode("utf-8", "surrogateescape"), "a")) + "\n"
