"""Short-lived credentials from STS that can only read what a job reads."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import boto3

from ray_mr.aws.errors import translate_errors
from ray_mr.aws.identity import split_uri
from ray_mr.credentials import Credentials
from ray_mr.errors import JobError
from ray_mr.storage.patterns import get_literal_prefix, is_glob
from ray_mr.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_S, MAX_S = 900, 129_600
"""What GetFederationToken takes: 15 minutes to 36 hours."""
MAX_POLICY = 2048
"""Letters that STS takes as a session policy."""


def federate(patterns: Iterable[str], *, seconds: int, name: str = "ray-mr") -> Credentials:
    """Credentials that may get and list what ``s3://`` patterns name, and nothing else.

    The credentials of boto3's own chain ask for them; they have to be an IAM user's.

    Raises:
        JobError: The time is out of range, or there is no pattern.
        CredentialsError: STS refused the credentials that ask.
        StoreError: STS refused for another reason.
    """
    if not MIN_S <= seconds <= MAX_S:
        raise JobError(
            f"{format_seconds(seconds)} is no time for a federation token",
            f"it can be {format_seconds(MIN_S)} to {format_seconds(MAX_S)}",
        )
    policy = json.dumps(make_policy(patterns), separators=(",", ":"))
    session = boto3.session.Session()
    with translate_errors("sts:GetFederationToken"):
        client = session.client("sts")
    with translate_errors("sts:GetFederationToken", client.meta.endpoint_url):
        answer = client.get_federation_token(Name=name, Policy=policy, DurationSeconds=seconds)
    given: dict[str, Any] = answer["Credentials"]
    expiry: dt.datetime = given["Expiration"]
    return Credentials(
        given["AccessKeyId"],
        given["SecretAccessKey"],
        given["SessionToken"],
        session.region_name or "",
        expiry.astimezone(dt.UTC),
    )


def make_policy(patterns: Iterable[str]) -> dict[str, Any]:
    """A policy that allows GetObject and ListBucket on what the patterns name.

    Where it gets too long for STS, the prefixes of a bucket are joined to what they share.

    Raises:
        JobError: There is no pattern, or there are too many buckets.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for pattern in patterns:
        bucket, key = split_uri(pattern)
        exact = bool(key) and not key.endswith("/") and not is_glob(key)
        wanted[bucket].add(_literal(key) if exact else _literal(get_literal_prefix(key)) + "*")
    if not wanted:
        raise JobError("there is no s3:// input to get credentials for")
    policy = _policy(wanted)
    if len(json.dumps(policy, separators=(",", ":"))) > MAX_POLICY:
        policy = _policy({bucket: {_shared(keys) + "*"} for bucket, keys in wanted.items()})
    if len(json.dumps(policy, separators=(",", ":"))) > MAX_POLICY:
        raise JobError(
            f"a session policy has no room for {len(wanted):,} buckets",
            "get credentials for fewer at a time",
        )
    return policy


def _shared(keys: set[str]) -> str:
    """What all keys begin with, letter by letter."""
    first, last = min(keys), max(keys)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same).rstrip("*")


def _literal(prefix: str) -> str:
    """A key as a policy reads it; what follows a policy variable is left open."""
    return prefix if "${" not in prefix else prefix[: prefix.index("${")] + "*"


def _policy(wanted: dict[str, set[str]]) -> dict[str, Any]:
    statements: list[dict[str, Any]] = []
    for bucket, keys in sorted(wanted.items()):
        arn = f"arn:aws:s3:::{bucket}"
        listed = sorted({key.rstrip("*") + "*" for key in keys})
        statements += [
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": sorted(f"{arn}/{key}" for key in keys),
            },
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [arn],
                "Condition": {"StringLike": {"s3:prefix": listed}},
            },
        ]
    return {"Version": "2012-10-17", "Statement": statements}
