"""Names that a result can have: values of a job's ``output``.

``driver/output_checks.py`` checks whether an object of that name exists.
"""

from __future__ import annotations

FORMAT_SUFFIXES = {
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
"""Formats by the suffix of a name that implies them; a result is plain lines."""


def check_output(output: str) -> str:
    """Return the output, if a result can have this name.

    Raises:
        ValueError: It cannot; the message says what to write instead.
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
    if ending in FORMAT_SUFFIXES:
        stem = name[: -len(ending) - 1] or "result.txt"
        raise ValueError(
            f"ends in .{ending}, which means {FORMAT_SUFFIXES[ending]}, "
            f"and a result is plain lines: name it {stem}, and convert it afterwards"
        )
    return output
