"""Stores that refuse, are not there, or have not what they are asked for."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3

from bad_input import Case
from odd_s3 import odd_s3

if TYPE_CHECKING:
    from collections.abc import Callable

    from bad_input import Told, User

SUBJECT = "Stores and credentials"
FIXTURES = ("s3",)
RUN = "ray-mr run job.yml --engine local"
FILES = {"job.yml": "inputs: ['{input}']\nmapper: {language: binary, script: ./cat.sh}\n"}
CAT = '#!/bin/sh\nwhile read f; do cat "$f"; done\n'
WHERE = "s3.example"


def store(
    name: str, uri: str, code: int, *says: str, before: Callable[[User], object] | None = None
) -> Case:
    """A run over one input."""
    files = {"cat.sh": CAT, "job.yml": FILES["job.yml"].replace("{input}", uri)}
    shown = f"job.yml: inputs: [{uri}]".replace("{bucket}", "my-bucket")
    return Case(name, RUN, code, says, files=files, before=before or fill, shown=shown)


def fill(user: User) -> None:
    """A bucket with one object, and settings of AWS of our own."""
    user.bucket({"in/a.txt": b"a\n"})


def with_env(**values: str) -> Callable[[User], None]:
    """The bucket, and other variables: an empty one is not there at all."""

    def before(user: User) -> None:
        fill(user)
        for name, value in values.items():
            user.monkeypatch.setenv(name, value)
            if not value:
                user.monkeypatch.delenv(name)
        user.fresh_stores()

    return before


def refusing(*kinds: str, answer: tuple[int, str, str]) -> Callable[[User], None]:
    """An S3 server that refuses requests of these kinds."""

    def before(user: User) -> None:
        user.bucket()
        odd = user.enter(odd_s3())
        odd.objects["in/a.txt"] = b"a\n"
        odd.refuses = dict.fromkeys(kinds, answer)
        user.monkeypatch.setenv("AWS_ENDPOINT_URL", odd.endpoint)
        user.monkeypatch.setattr("ray_mr.aws.client.MAX_ATTEMPTS", 2)
        user.masks[odd.endpoint] = f"http://{WHERE}"
        user.fresh_stores()

    return before


def without_permission(user: User) -> None:
    """Credentials of the S3 server itself that may list, and read nothing."""
    fill(user)
    may = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    sts = boto3.client("sts", endpoint_url=user.server.endpoint, region_name="us-east-1")
    got = sts.get_federation_token(Name="lister", Policy=policy)["Credentials"]
    user.monkeypatch.setenv("AWS_ACCESS_KEY_ID", got["AccessKeyId"])
    user.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", got["SecretAccessKey"])
    user.monkeypatch.setenv("AWS_SESSION_TOKEN", got["SessionToken"])
    user.fresh_stores()


def down(user: User) -> None:
    """An endpoint at which nobody listens."""
    fill(user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    user.masks[endpoint] = f"http://{WHERE}"
    user.monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    user.monkeypatch.setattr("ray_mr.aws.client.MAX_ATTEMPTS", 2)
    user.fresh_stores()


SLOW = (503, "SlowDown", "Please reduce your request rate.")
EXPIRED = (400, "ExpiredToken", "The provided token has expired.")
DENIED = (403, "AccessDenied", "Access Denied")
HERE = "s3://{bucket}/in/a.txt"
BELOW = "s3://{bucket}/in/"

CASES = [
    store(
        "A bucket that is not there",
        "s3://no-such-bucket/in/",
        4,
        "there is no bucket no-such-bucket at http://s3.example",
    ),
    store(
        "A key that is not there",
        "s3://{bucket}/in/b.txt",
        4,
        "s3://my-bucket/in/b.txt does not exist",
    ),
    store(
        "A key that is a folder",
        "s3://{bucket}/in",
        4,
        "s3://my-bucket/in does not exist",
        "a '/' or '/**' at its end means all below it",
    ),
    store(
        "A prefix with nothing below it",
        "s3://{bucket}/out/",
        2,
        "no input: nothing is in s3://my-bucket/out/",
    ),
    store(
        "A pattern that fits nothing",
        "s3://{bucket}/in/*.gz",
        2,
        "no input: nothing is in s3://my-bucket/in/*.gz",
    ),
    store(
        "A file that is not there",
        "no-such-file.txt",
        4,
        "/home/me/job/no-such-file.txt: no such file",
    ),
    store(
        "A folder without a slash at its end",
        ".",
        4,
        "/home/me/job is a folder",
        "a '/' or '/**' at its end",
    ),
    store(
        "No permission to read",
        HERE,
        4,
        "s3://my-bucket/in/a.txt: access denied",
        "have no permission",
        before=without_permission,
    ),
    store(
        "No permission to read what may be listed",
        BELOW,
        4,
        "s3://my-bucket/in/a.txt: access denied",
        before=refusing("get", answer=DENIED),
    ),
    store(
        "No permission to list",
        BELOW,
        4,
        "s3://my-bucket/in/: access denied (AccessDenied)",
        before=refusing("list", answer=DENIED),
    ),
    store(
        "A wrong secret key",
        BELOW,
        3,
        "http://s3.example refused the credentials (SignatureDoesNotMatch)",
        "the secret key is wrong",
        before=with_env(AWS_SECRET_ACCESS_KEY="wrong"),
    ),
    store(
        "A wrong access key",
        BELOW,
        3,
        "refused the credentials (InvalidAccessKeyId)",
        "the access key is unknown",
        before=with_env(AWS_ACCESS_KEY_ID="wrong"),
    ),
    store(
        "Credentials that have expired",
        BELOW,
        3,
        "refused the credentials (ExpiredToken)",
        "the session token has expired",
        before=refusing("list", answer=EXPIRED),
    ),
    store(
        "Credentials that expire half-way",
        BELOW,
        3,
        "s3://my-bucket/in/a.txt: http://s3.example refused the credentials (ExpiredToken)",
        before=refusing("get", answer=EXPIRED),
    ),
    store(
        "No credentials at all",
        BELOW,
        3,
        "no usable AWS credentials",
        before=with_env(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""),
    ),
    store(
        "A profile that is not there", BELOW, 3, "profile", before=with_env(AWS_PROFILE="nobody")
    ),
    store(
        "An endpoint that is down",
        BELOW,
        4,
        "s3://my-bucket/in/: no proper answer from http://s3.example (EndpointConnectionError)",
        "is the endpoint right",
        before=down,
    ),
    store(
        "An endpoint that is no URL",
        BELOW,
        4,
        "a request cannot be made",
        "AWS_ENDPOINT_URL",
        before=with_env(AWS_ENDPOINT_URL="s3.example"),
    ),
    store(
        "A server that is too busy",
        BELOW,
        4,
        "http://s3.example does not answer properly (SlowDown)",
        "Please reduce your request rate",
        before=refusing("list", answer=SLOW),
    ),
    replace(
        store(
            "A server that is too busy half-way",
            BELOW,
            4,
            "s3://my-bucket/in/a.txt: http://s3.example does not answer properly (SlowDown)",
            before=refusing("get", answer=SLOW),
        ),
        words=f"{RUN} --attempts 2",
    ),
]


def check(user: User, outcome: Told) -> None:
    """A secret is never shown."""
    assert user.server.secret_key not in outcome.output
    assert user.server.access_key not in outcome.output
