"""Short-lived credentials from STS that can only read the inputs of a job."""

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

MIN_LIFETIME_S, MAX_LIFETIME_S = 900, 129_600
"""Lifetimes that GetFederationToken accepts: 15 minutes to 36 hours."""
MAX_POLICY_CHARS = 2048
"""Maximum length of a session policy."""


def federate(patterns: Iterable[str], *, seconds: int, name: str = "ray-mr") -> Credentials:
    """Return credentials that may get and list the objects of patterns, and nothing else.

    The request is signed by the credentials of boto3's own chain, which must be an IAM user's.

    Args:
        patterns: ``s3://`` patterns of a job's inputs.
        seconds: Lifetime of the credentials.
        name: Name of the federated user in AWS's logs.

    Raises:
        JobError: The lifetime is out of range, or there is no pattern.
        CredentialsError: STS refused the credentials that sign the request.
        StoreError: STS refused for another reason.
    """
    if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
        raise JobError(
            f"{format_seconds(seconds)} is not a lifetime of a federation token",
            f"it can be {format_seconds(MIN_LIFETIME_S)} to {format_seconds(MAX_LIFETIME_S)}",
        )
    policy = json.dumps(make_policy(patterns), separators=(",", ":"))
    session = boto3.session.Session()
    with translate_errors("sts:GetFederationToken"):
        client = session.client("sts")
    with translate_errors("sts:GetFederationToken", client.meta.endpoint_url):
        answer = client.get_federation_token(Name=name, Policy=policy, DurationSeconds=seconds)
    credentials: dict[str, Any] = answer["Credentials"]
    expiry: dt.datetime = credentials["Expiration"]
    return Credentials(
        credentials["AccessKeyId"],
        credentials["SecretAccessKey"],
        credentials["SessionToken"],
        session.region_name or "",
        expiry.astimezone(dt.UTC),
    )


def make_policy(patterns: Iterable[str]) -> dict[str, Any]:
    """Return a policy that allows GetObject and ListBucket for the objects of patterns.

    If it is too long for STS, the prefixes of a bucket are replaced by their common prefix.

    Raises:
        JobError: There is no pattern, or there are too many buckets.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for pattern in patterns:
        bucket, key = split_uri(pattern)
        exact = bool(key) and not key.endswith("/") and not is_glob(key)
        keys[bucket].add(_escape(key) if exact else _escape(get_literal_prefix(key)) + "*")
    if not keys:
        raise JobError("there is no s3:// input to get credentials for")
    policy = _build_policy(keys)
    if len(json.dumps(policy, separators=(",", ":"))) > MAX_POLICY_CHARS:
        common = {bucket: {_get_common_prefix(each) + "*"} for bucket, each in keys.items()}
        policy = _build_policy(common)
    if len(json.dumps(policy, separators=(",", ":"))) > MAX_POLICY_CHARS:
        raise JobError(
            f"a session policy has no room for {len(keys):,} buckets",
            "get credentials for fewer at a time",
        )
    return policy


def _get_common_prefix(keys: set[str]) -> str:
    first, last = min(keys), max(keys)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same).rstrip("*")


def _escape(prefix: str) -> str:
    """Return a key as a policy reads it; the rest after a policy variable becomes ``*``."""
    return prefix if "${" not in prefix else prefix[: prefix.index("${")] + "*"


def _build_policy(keys_by_bucket: dict[str, set[str]]) -> dict[str, Any]:
    statements: list[dict[str, Any]] = []
    for bucket, keys in sorted(keys_by_bucket.items()):
        arn = f"arn:aws:s3:::{bucket}"
        prefixes = sorted({key.rstrip("*") + "*" for key in keys})
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
                "Condition": {"StringLike": {"s3:prefix": prefixes}},
            },
        ]
    return {"Version": "2012-10-17", "Statement": statements}
