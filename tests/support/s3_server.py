"""The demo's S3 server for tests: one client, any number of buckets."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demo import s3_server as demo

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    access_key: str
    secret_key: str
    environment: dict[str, str]
    """Variables by which boto3 finds the server, without this machine's own settings."""
    client: Any

    def bucket(self) -> str:
        """Make a bucket; return its name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        for key, body in objects.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys of the first thousand objects."""
        items = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return [item["Key"] for item in items]

    def body(self, bucket: str, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def uploads(self, bucket: str) -> list[str]:
        """Return the keys of multipart uploads that are neither completed nor aborted."""
        answer = self.client.list_multipart_uploads(Bucket=bucket)
        return [item["Key"] for item in answer.get("Uploads", [])]


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server; its data are deleted afterwards."""
    with demo.S3Server() as server:
        variables = server.environment().items()
        own = {name: value for name, value in variables if name.startswith("AWS_")}
        yield S3Server(server.endpoint, server.access_key, server.secret_key, own, server.client())
