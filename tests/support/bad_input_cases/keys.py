"""Keys that are no good file names, and keys that merely look so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bad_input import Case
from odd_s3 import odd_s3

if TYPE_CHECKING:
    from collections.abc import Callable

    from bad_input import User

SUBJECT = "Keys"
FIXTURES = ("s3",)
RUN = "ray-mr run job.yml --engine local"
JOB = "inputs: ['s3://{bucket}/']\nmapper: {language: binary, script: ./names.sh}\n"
NAMES = '#!/bin/sh\nwhile read -r f; do cat "$f" && echo "$f"; done\n'


def unusable(name: str, key: str, why: str) -> list[Case]:
    """A key that cannot be a path below the child's folder, beside a good one."""

    def before(user: User) -> None:
        user.bucket()
        odd = user.enter(odd_s3())
        odd.objects = {"good": b"", key: b"never to be written"}
        user.monkeypatch.setenv("AWS_ENDPOINT_URL", odd.endpoint)
        user.fresh_stores()

    shown = key if len(key) < 99 else key.strip(key[-1]) + 3 * key[-1] + "..."
    failed = f"s3://my-bucket/{shown}: its key {why}".replace("\0", "\ufffd").replace("\n", "\\n")
    files = {"names.sh": NAMES, "job.yml": JOB}
    return [
        Case(
            name,
            RUN,
            5,
            ("nothing was published", "1 input failed, 0 allowed", failed),
            files=files,
            before=before,
            after=outside_is_untouched,
        ),
        Case(
            f"{name}, and one bad input is allowed",
            f"{RUN} --max-failed-inputs 1",
            0,
            ("1 ok, 0 skipped, 1 failed", failed),
            files=files,
            before=before,
            after=outside_is_untouched,
            result=b"./s3/good\n",
        ),
    ]


def outside_is_untouched(user: User) -> None:
    """No key has made a file outside the folder of its attempt."""
    assert not [path for path in user.folder.parent.rglob("x*") if path.is_file()]


def holding(*keys: str) -> Callable[[User], object]:
    """A real bucket with these keys; what is in an object is empty."""
    return lambda user: user.bucket(dict.fromkeys(keys, b""))


def usable(name: str, keys: list[str], result: str, *says: str, note: str = "") -> Case:
    """Keys of a real bucket that are fine."""
    return Case(
        name,
        RUN,
        0,
        says,
        files={"names.sh": NAMES, "job.yml": JOB},
        before=holding(*keys),
        result=result.encode(),
        note=note,
    )


def nested(user: User) -> None:
    """Keys below keys, which a real server on a disk would not have."""
    user.bucket()
    odd = user.enter(odd_s3())
    odd.objects = dict.fromkeys(("a", "a/b", "a/b/c"), b"")
    user.monkeypatch.setenv("AWS_ENDPOINT_URL", odd.endpoint)
    user.fresh_stores()


CASES = [
    *unusable("A key that climbs out of its folder", "../../x", "has the component '..'"),
    unusable("A key that climbs out half-way", "a/../../x", "has the component '..'")[0],
    unusable("A key that begins with a slash", "/etc/x", "is an absolute path")[0],
    unusable("A key with two slashes", "a//x", "has an empty name between slashes")[0],
    unusable(
        "A key that ends in a slash and is no folder marker",
        "x/",
        "has an empty name between slashes",
    )[0],
    unusable("A key with a NUL", "x\0y", "has a NUL character")[0],
    unusable("A key with a line break", "x\ny", "has a line break")[0],
    unusable(
        "A key with a name over 255 bytes",
        "d/" + "x" * 256,
        "has a component of 256 bytes, over 255",
    )[0],
    unusable(
        "A key with a name over 255 bytes that has fewer letters",
        "\u00e4" * 128,
        "has a component of 256 bytes, over 255",
    )[0],
    usable(
        "Keys with letters of any script, percent signs, blanks and plus signs",
        ["caf\u00e9 %41+b.txt", "\u65e5\u672c.txt", "a%2Fb", "-rf"],
        "./s3/-rf\n./s3/a%2Fb\n./s3/caf\u00e9 %41+b.txt\n./s3/\u65e5\u672c.txt\n",
        "4 ok",
        note="Taken letter by letter.",
    ),
    usable(
        "A key that is a folder marker",
        ["in/", "in/a"],
        "./s3/in/a\n",
        "1 ok, 1 skipped",
        note="An empty object whose key ends in a slash is skipped.",
    ),
    Case(
        "Only a folder marker",
        "ray-mr run job.yml --engine local",
        2,
        ("no input: only folder markers are in s3://my-bucket/",),
        files={"names.sh": NAMES, "job.yml": JOB},
        before=holding("in/"),
    ),
    Case(
        "A key and keys below it",
        RUN,
        0,
        ("3 ok, 0 skipped, 0 failed",),
        result=b"./s3/a\n./s3/a/b\n./s3/a/b/c\n",
        files={"names.sh": NAMES, "job.yml": JOB},
        before=nested,
        note="Each is given to a program of its own: a disk cannot have `a` and `a/b`.",
    ),
    Case(
        "A key that is named twice",
        f"{RUN} s3://{{bucket}}/a s3://{{bucket}}/a s3://{{bucket}}/",
        0,
        ("2 ok, 2 skipped, 0 failed",),
        files={"names.sh": NAMES, "job.yml": JOB},
        before=holding("a", "b"),
        result=b"./s3/a\n./s3/b\n",
        note="It is read once.",
    ),
]
