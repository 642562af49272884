"""Results that cannot be written where the job says, or that are there already."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from bad_input import Case, as_process
from odd_s3 import odd_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bad_input import Told, User

SUBJECT = "Results"
FIXTURES = ("s3",)
RUN = "ray-mr run job.yml --engine local"
JOB = "inputs: [in.txt]\nmapper: {language: binary, script: ./cat.sh}\n"
CAT = '#!/bin/sh\nwhile read f; do cat "$f"; done\n'
FILES: dict[str, str | bytes] = {"in.txt": "a 1\n", "cat.sh": CAT, "job.yml": JOB}
OLD: dict[str, str | bytes] = {"result.txt": b"old\n"}


def output(
    name: str,
    option: str,
    code: int,
    *says: str,
    files: Mapping[str, str | bytes] | None = None,
    before: Callable[[User], object] | None = None,
    after: Callable[[User], object] | None = None,
    result: bytes | None = None,
) -> Case:
    """A good run whose result is the matter."""
    words = f"{RUN} {option}".strip()
    every = {**FILES, **(files or {})}
    return Case(name, words, code, says, files=every, before=before, after=after, result=result)


def without_power(user: User, case: Case) -> Told:
    """The command as somebody who may not write everywhere, as root may."""
    user.folder.chmod(0o555)
    user.request.addfinalizer(lambda: user.folder.chmod(0o755))
    root = os.getuid() == 0
    return as_process(user, case, before=["setpriv", "--bounding-set=-all"] if root else [])


def bucket_with(*keys: str) -> Callable[[User], object]:
    return lambda user: user.bucket(dict.fromkeys(keys, b"old\n"))


def untouched(*keys: str) -> Callable[[User], None]:
    """The bucket holds these keys and nothing else, not even the parts of an upload."""

    def after(user: User) -> None:
        listed = user.server.client.list_objects_v2(Bucket=user.names["bucket"])
        there = [row["Key"] for row in listed.get("Contents", ())]
        assert there == sorted(keys)
        uploads = user.server.client.list_multipart_uploads(Bucket=user.names["bucket"])
        assert not uploads.get("Uploads")

    return after


def read_only(user: User) -> None:
    """An S3 server that lets nothing be written."""
    user.bucket()
    odd = user.enter(odd_s3())
    odd.refuses = dict.fromkeys(("put", "create"), (403, "AccessDenied", "Access Denied"))
    user.monkeypatch.setenv("AWS_ENDPOINT_URL", odd.endpoint)
    user.fresh_stores()


PREFIX = "--output s3://{bucket}/out/"
LARGE = '#!/bin/sh\ncat >/dev/null; head -c 5000000 /dev/zero | tr "\\0" x\n'

CASES = [
    output(
        "A result that is there already",
        "",
        2,
        "/home/me/job/result.txt: there is a result already",
        "replace it with --force",
        files=OLD,
    ),
    output(
        "A result that is there already, and --force",
        "--force",
        0,
        "1 ok",
        files=OLD,
        result=b"a 1\n",
    ),
    replace(
        output(
            "A result that is there already, a failed run, and --force",
            "--force",
            6,
            "nothing was published",
            "this run's report is /home/me/job/failed-report.json",
            files=OLD | {"cat.sh": "#!/bin/sh\nexit 3\n"},
        ),
        note="The old result stays, with its report, until a new one is whole.",
    ),
    output(
        "A result in a format that it is not in",
        "--output result.txt.gz",
        2,
        "ends in .gz, which means gzip, and a result is plain lines",
        "name it result.txt",
    ),
    output(
        "A result in a bucket without a name",
        "--output s3://my-bucket",
        2,
        "names a bucket and nothing in it",
        "write s3://my-bucket/ for parts in the bucket itself, or s3://my-bucket/prefix/",
    ),
    output(
        "A result among its own inputs",
        "'data/part-*' --output data/ --force",
        2,
        "/home/me/job/data/part-00000 is an input, and this run would write over it or delete it",
        files={"data/part-00000": "a 1\n"},
    ),
    output(
        "A folder that has the name of one that a run clears",
        "--force",
        2,
        "/home/me/job/result.txt.dead-letters/ was not made by ray_mr",
        files={"result.txt.dead-letters/x": "mine"},
    ),
    output(
        "A report that is not ray_mr's",
        "--force",
        2,
        "/home/me/job/report.json is not a report of ray_mr, and this run would write over it",
        files={"report.json": "{}"},
    ),
    output(
        "A result that is a folder",
        "--output out",
        4,
        "/home/me/job/out is a folder",
        files={"out/x": ""},
    ),
    output(
        "A result below a file",
        "--output in.txt/result.txt",
        4,
        "/home/me/job/in.txt/result.txt: a part of its path is a file, not a folder",
    ),
    output(
        "A result that is an input",
        "--output in.txt --force",
        2,
        "/home/me/job/in.txt is an input, and this run would write over it",
    ),
    output(
        "A result in the place of the report",
        "--output report.json",
        2,
        "is the name of the report",
    ),
    replace(
        output(
            "A folder that may not be written", "", 4, "/home/me/job/result.txt: Permission denied"
        ),
        run=without_power,
    ),
    output(
        "A disk that is full",
        "--output disk/result.txt",
        4,
        "disk full: /home/me/job/disk/result.txt",
        "free some space",
        files={"cat.sh": LARGE},
        before=lambda user: user.small_disk(user.folder / "disk", "1m"),
    ),
    output(
        "A bucket for the result that is not there",
        "--output s3://no-such-bucket/out/",
        4,
        "there is no bucket no-such-bucket at http://s3.example",
        before=bucket_with(),
    ),
    output(
        "A result in S3 that is there already",
        PREFIX,
        2,
        "s3://my-bucket/out/: there is a result already",
        "--force",
        before=bucket_with("out/_SUCCESS", "out/part-00000"),
        after=untouched("out/_SUCCESS", "out/part-00000"),
    ),
    output(
        "A result in S3 that was cut off",
        PREFIX,
        2,
        "there is a result that was cut off, without _SUCCESS, already",
        before=bucket_with("out/part-00000"),
        after=untouched("out/part-00000"),
    ),
    output(
        "No permission to write the result",
        PREFIX,
        4,
        "s3://my-bucket/out/part-00000: access denied (AccessDenied)",
        before=read_only,
    ),
]
