"""The engine on Ray: losses that only Ray has, Ray's errors, and how a runtime starts."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine_run import Hold, Watched, all_cpus_free, hanging_reducer
from jobs import MAPPER, job, make_pings, script
from ray_mr.driver.run import run
from ray_mr.engines.contract import AttemptLost, Engine
from ray_mr.errors import (
    CorruptObject,
    EngineError,
    LedgerError,
    RayMrError,
    StoreError,
    WorkerLost,
)
from ray_mr.model import AttemptId, BlockMeta, Progress
from ray_mr.system.scratch import lock_as_worker
from samples import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine_run import Begin


ONLY_RAY = pytest.mark.parametrize(
    "engine", [pytest.param("ray", marks=pytest.mark.ray)], indirect=True
)


# ---------------------------------------------------------------- what only Ray can lose


@ONLY_RAY
def test_killed_worker_is_a_lost_attempt(begin: Begin, folder: Path) -> None:
    """SIGKILL of a worker also ends the child of its attempt."""
    hold = Hold(folder)
    hanging = hold.source + MAPPER.replace("    return", "    hang()\n    return")
    run = begin(mapper={"script": script(folder, "hanging.py", hanging)})
    ident = run.start(run.plan.splits[0])
    child, worker = hold.who()
    worker.kill()
    lost = run.until(lambda event: isinstance(event, AttemptLost))
    assert isinstance(lost, AttemptLost)
    assert lost.id == ident
    assert type(lost.error) is WorkerLost
    assert child.ended()


@ONLY_RAY
def test_grandchildren_of_a_killed_worker_are_killed(begin: Begin, folder: Path) -> None:
    """Programs that a mapper has started are found by their session and their folder."""
    hold = Hold(folder)
    spawn = (
        "    import subprocess\n"
        "    sleeper = subprocess.Popen(['sleep', '600'])\n"
        f"    open({str(folder / 'sleeper')!r}, 'w').write(str(sleeper.pid))\n"
        "    hang()\n"
    )
    source = hold.source + MAPPER.replace("    return", spawn + "    return")
    run = begin(mapper={"script": script(folder, "spawning.py", source)})
    run.start(run.plan.splits[0])
    child, worker = hold.who()
    sleeper = Watched(int((folder / "sleeper").read_text()))
    worker.kill()
    run.until(lambda event: isinstance(event, AttemptLost))
    assert child.ended()
    assert sleeper.ended()


@ONLY_RAY
def test_cancelled_attempts_do_not_outlive_their_run(begin: Begin, folder: Path) -> None:
    """A run removes its folder with the stop marks; an attempt takes that as a mark too.

    Some of the attempts run without a message yet, others have not begun.
    """
    hold = Hold(folder)
    hanging = hold.source + MAPPER.replace("    return", "    hang()\n    return")
    run = begin(mapper={"script": script(folder, "hanging.py", hanging)})
    cancelled = [run.start(split) for split in run.plan.splits]
    children = [hold.who()[0] for _ in range(run.capacity.map_slots)]
    for ident in cancelled:
        run.engine.cancel(ident)
    run.engine.close()
    for child in children:
        assert child.ended()
    wait_until(all_cpus_free)


@ONLY_RAY
def test_attempts_that_wait_for_others_never_begin(
    begin: Begin, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that leaves while another has all CPUs withdraws its queued attempts."""
    import ray

    def busy(gate: str) -> None:
        with Path(gate).open() as held:
            held.read()

    monkeypatch.setattr("ray_mr.engines.ray.engine.LEAVE_TIMEOUT_S", 0.5)
    gates = [folder / f"gate-{number}" for number in range(2)]
    for gate in gates:
        os.mkfifo(gate)
    others = [ray.remote(num_cpus=1)(busy).remote(str(gate)) for gate in gates]
    with contextlib.ExitStack() as held:
        for gate in gates:
            held.enter_context(gate.open("w"))  # they have begun
        hold = Hold(folder)
        hanging = hold.source + MAPPER.replace("    return", "    hang()\n    return")
        run = begin(mapper={"script": script(folder, "hanging.py", hanging)})
        for split in run.plan.splits:
            run.start(split)
        run.engine.close()
    ray.get(others)
    wait_until(all_cpus_free)
    assert hold.nobody()


@ONLY_RAY
@pytest.mark.parametrize("idle", [False, True])
def test_killed_actor_is_a_failed_reducer(begin: Begin, folder: Path, idle: bool) -> None:
    """SIGKILL of an actor is reported, if it was idle at its next call, and is retryable."""
    hold = Hold(folder)
    if idle:
        run = begin()
        blocks = run.map()
        run.engine.make_reducer(1, [0])
        actor = Watched(_pid_of_actor(run.engine, 1))
        actor.kill()
        assert actor.ended()
        run.engine.add(1, *blocks[0])
    else:
        run, _ = hanging_reducer(begin, folder, hold)
        child, actor = hold.who()
        actor.kill()
        assert child.ended()
    error = run.failed(1)
    assert type(error) is WorkerLost
    assert error.retryable


def _pid_of_actor(engine: Engine, reducer: int) -> int:
    import ray

    from ray_mr.engines.ray.engine import RayEngine

    assert isinstance(engine, RayEngine)
    actor = engine._reducers[reducer].actor
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


@ONLY_RAY
def test_reducer_that_fails_to_start_reports_its_own_error(begin: Begin) -> None:
    """The error is not that of the next call."""
    run = begin()
    meta, ref = run.map()[0]
    nowhere: Any = "of/no/folder"
    run.engine.make_reducer(nowhere, [0])
    run.engine.add(nowhere, meta, ref)
    error = run.failed(nowhere)
    assert type(error) is StoreError
    assert "reducer-of/no/folder" in error.message


@ONLY_RAY
def test_worker_that_dies_before_an_announced_block_is_lost(begin: Begin) -> None:
    """A loss between the announcement of a block and the block is reported at once."""
    import ray

    from ray_mr.engines.ray.engine import RayEngine
    from ray_mr.engines.ray.remote import BlockAnnounced
    from ray_mr.engines.ray.streams import TaskStream

    run = begin()
    assert isinstance(run.engine, RayEngine)
    ident = AttemptId(0, 0, 99)

    @ray.remote(max_retries=0, num_returns="streaming", num_cpus=0)
    def dying(meta: BlockMeta) -> Iterator[object]:
        yield Progress(0)
        yield BlockAnnounced(meta, 1)
        os._exit(1)

    meta = BlockMeta(ident, 0, 0, (1,), (0, 1), (0,))
    run.engine._attempts[ident] = TaskStream(
        dying.remote(meta), run.engine._budget.grant_attempt(1)
    )
    lost = run.until(lambda event: isinstance(event, AttemptLost))
    assert isinstance(lost, AttemptLost)
    assert lost.error.retryable


@ONLY_RAY
def test_reducer_that_dies_before_an_announced_block_fails(begin: Begin) -> None:
    import ray

    from ray_mr.engines.ray.engine import RayEngine
    from ray_mr.engines.ray.remote import BlockAnnounced
    from ray_mr.engines.ray.streams import TaskStream

    run = begin()
    assert isinstance(run.engine, RayEngine)
    run.engine.make_reducer(1, [0])

    @ray.remote(max_retries=0, num_returns="streaming", num_cpus=0)
    def dying() -> Iterator[object]:
        yield BlockAnnounced(0, 1)
        os._exit(1)

    run.engine._reducers[1].output = TaskStream(dying.remote(), run.engine._budget.grant_reducer(1))
    assert run.failed(1).retryable


# ---------------------------------------------------------------- Ray's errors


def _make_exception(kind: type[BaseException]) -> BaseException:
    """Return an exception of a class, with arguments for its signature where possible."""
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    arguments = {
        each.name: None
        if "Optional" in str(each.annotation)
        else ("00" * 28 if "hex" in each.name else "text")
        for each in parameters
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    }
    with contextlib.suppress(Exception):
        return kind(**arguments)
    return kind.__new__(kind)


@pytest.mark.ray
def test_every_exception_of_ray_is_translated() -> None:
    """Each class of ``ray.exceptions`` becomes an error with a message."""
    from ray import exceptions as rex

    from ray_mr.engines.ray.errors import translate_errors

    kinds = [
        kind
        for _, kind in inspect.getmembers(rex, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__.startswith("ray")
    ]
    assert len(kinds) > 25
    for kind in kinds:
        with pytest.raises(RayMrError) as caught, translate_errors():
            raise _make_exception(kind)
        assert caught.value.message, kind
        if kind is not rex.RayTaskError:
            assert isinstance(caught.value, EngineError), kind


@pytest.mark.ray
def test_losses_are_retryable_and_nothing_else() -> None:
    """Lost workers, actors, nodes and objects are; a full disk or a wrong set-up is not."""
    from ray import exceptions as rex

    from ray_mr.engines.ray.errors import translate_errors

    retryable = {
        rex.WorkerCrashedError: True,
        rex.ActorDiedError: True,
        rex.ActorUnavailableError: True,
        rex.NodeDiedError: True,
        rex.LocalRayletDiedError: True,
        rex.OutOfMemoryError: True,
        rex.TaskCancelledError: True,
        rex.ObjectLostError: True,
        rex.ObjectReconstructionFailedError: True,
        rex.OwnerDiedError: True,
        rex.GetTimeoutError: True,
        rex.OutOfDiskError: False,
        rex.RuntimeEnvSetupError: False,
        rex.AuthenticationError: False,
    }
    for kind, expected in retryable.items():
        with pytest.raises(RayMrError) as caught, translate_errors():
            raise _make_exception(kind)
        assert caught.value.retryable is expected, kind


@pytest.mark.ray
def test_error_of_ray_mr_passes_through_ray_unchanged() -> None:
    """An error raised in a task keeps its class, message and hint."""
    from ray import exceptions as rex

    from ray_mr.engines.ray.errors import BlockLostError, translate_errors

    for own in (CorruptObject("damaged", "fetch it again"), LedgerError("2 of 3", "a defect")):
        plain = rex.RayTaskError("f", "traceback", own)
        for raised in (plain, plain.as_instanceof_cause()):
            with pytest.raises(RayMrError) as caught, translate_errors():
                raise raised
            assert type(caught.value) is type(own)
            assert caught.value.args == own.args
    lost = rex.ObjectLostError("00" * 28, None, "")
    for cause in (lost, rex.NodeDiedError("dead"), rex.WorkerCrashedError()):
        with pytest.raises(BlockLostError), translate_errors():
            raise rex.RayTaskError("f", "traceback", cause)
    with (
        pytest.raises(RayMrError, match="a bug in ray_mr, in a task") as caught,
        translate_errors(),
    ):
        raise rex.RayTaskError("f", "traceback", ZeroDivisionError("division by zero"))
    assert caught.value.exit_code == 1


# ---------------------------------------------------------------- joining and starting a Ray


@pytest.fixture
def init_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the call of ``ray.init``."""
    arguments: dict[str, Any] = {}

    def init(address: str | None = None, **options: Any) -> None:
        arguments.update(options, address=address)
        arguments["environ"] = dict(os.environ)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray_mr.engines.ray.runtime.forget_token", lambda: None)
    return arguments


def start_and_stop() -> dict[str, str]:
    """Start a runtime and stop it; return the environment of this process between."""
    from ray_mr.engines.ray.engine import RayEngine

    runtime = RayEngine()._runtime
    runtime.start()
    runtime.join()
    meanwhile = dict(os.environ)
    runtime.stop()
    return meanwhile


@pytest.mark.ray
def test_private_ray_is_sized_for_the_machine(
    monkeypatch: pytest.MonkeyPatch, init_options: dict[str, Any]
) -> None:
    """Without ``RAY_ADDRESS`` Ray is started; its folders and variables are removed with it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user's clusters")
    before = dict(os.environ)
    start_and_stop()
    assert init_options["address"] == "local", "a Ray of another user is not joined"
    assert init_options["num_cpus"] >= 1
    assert init_options["object_store_memory"] >= 75 << 20
    assert init_options["log_to_driver"] is False
    assert not Path(init_options["object_spilling_directory"]).exists()
    assert not Path(init_options["_temp_dir"]).exists()
    inside = init_options["environ"]
    assert "RAY_AUTH_TOKEN" not in inside
    assert Path(inside["RAY_AUTH_TOKEN_PATH"]).name == "token"
    assert dict(os.environ) == before


@pytest.mark.ray
def test_named_cluster_is_joined_with_the_token_of_the_user(
    monkeypatch: pytest.MonkeyPatch, init_options: dict[str, Any]
) -> None:
    """With ``RAY_ADDRESS`` no Ray is sized or started."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the user's clusters")
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        start_and_stop()
    inside = init_options.pop("environ")
    assert inside["RAY_AUTH_TOKEN"] == "of the user's clusters"
    assert "RAY_AUTH_TOKEN_PATH" not in inside
    assert set(init_options) == {"address", "logging_level", "log_to_driver"}
    assert init_options["address"] is None, "Ray reads the variable itself"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_runtime")
def test_nodes_of_a_joined_cluster_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the nodes on other machines than the driver's."""
    make_pings(tmp_path / "in", files=1)
    monkeypatch.setattr("ray_mr.driver.run.sweep", lambda: None)
    with lock_as_worker("of-a-driver-elsewhere") as folder:
        pass
    assert run(job(tmp_path), engine="ray").ok
    wait_until(lambda: not folder.exists())
