"""Names that a result can have: what ``output`` of a job may say.

Whether something stands there already is not looked at here; see ``driver/output_checks.py``.
"""

from __future__ import annotations

COMPRESSED = {
    "gz": "gzip",
    "gzip": "gzip",
    "tgz": "tar and gzip",
    "bz2": "bzip2",
    "xz": "xz",
    "lzma": "lzma",
    "zst": "zstd",
    "zstd": "zstd",
    "lz4": "lz4",
    "lzo": "lzo",
    "br": "brotli",
    "sz": "snappy",
    "snappy": "snappy",
    "deflate": "zlib",
    "zlib": "zlib",
    "z": "compress",
    "zip": "zip",
    "7z": "7-Zip",
    "rar": "RAR",
    "tar": "tar",
    "parquet": "Parquet",
    "orc": "ORC",
    "avro": "Avro",
    "arrow": "Arrow",
    "feather": "Arrow",
    "xlsx": "Excel",
    "sqlite": "SQLite",
    "npy": "NumPy",
    "npz": "NumPy",
    "pkl": "pickle",
}
"""Formats that readers expect behind the ending of a name; a result is plain lines."""


def checked(output: str) -> str:
    """The output, if a result can have this name.

    Raises:
        ValueError: It cannot; what is wrong, and what to write.
    """
    if "\0" in output:
        raise ValueError("has a NUL character, which no name can have")
    scheme, mark, rest = output.partition("://")
    if mark and scheme.lower() == "s3":
        bucket, slash, _ = rest.partition("/")
        if not bucket:
            raise ValueError(f"{output!r} has no bucket: write s3://bucket/prefix/")
        if not slash:
            raise ValueError(
                f"{output!r} names a bucket and nothing in it: "
                f"write {output}/ for parts in the bucket itself, or {output}/prefix/"
            )
    name = output.rpartition("/")[2]
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if ending in COMPRESSED:
        stem = name[: -len(ending) - 1] or "result.txt"
        raise ValueError(
            f"ends in .{ending}, which means {COMPRESSED[ending]}, and a result is plain lines: "
            f"name it {stem}, and convert it afterwards"
        )
    return output
