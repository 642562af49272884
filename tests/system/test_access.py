"""Credentials in use: sealed text travels, each process opens it, and S3 is open to no more."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from click.testing import CliRunner

from jobs import MAPPER, make_pings, run_told, script
from ray_mr import credentials as sealed
from ray_mr.aws.session import make_session
from ray_mr.aws.sts import MAX_POLICY_CHARS, federate, make_policy
from ray_mr.cli.main import main
from ray_mr.credentials import Credentials
from ray_mr.driver.run import plan
from ray_mr.errors import CredentialsError, JobError, StoreError
from ray_mr.jobs.job import Job
from ray_mr.stores import access, registry
from ray_mr.stores.registry import store_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3_server import S3Server

_OWN = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@pytest.fixture
def key_file(
    key_of_workers: Path, key_pair: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Name the key's file in the environment, and remove all other access to buckets."""
    path = key_of_workers
    path.write_bytes(key_pair[0])
    for name in ("CREDENTIALS", "RAY_MR_KEY_SECRET", "RAY_MR_ALLOW_2014", "RAY_MR_RENEW"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_MR_KEY_FILE", str(path))
    registry._make_s3_of.cache_clear()  # clients that were made with another environment
    yield path
    path.unlink()
    access.set_envelope("")
    registry._make_s3_of.cache_clear()


@pytest.fixture
def only_sealed(
    s3: S3Server, key_file: Path, key_pair: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Seals credentials into CREDENTIALS and takes those of the environment away."""
    assert key_file

    def put(found: Credentials, form: sealed.EnvelopeFormat = "new") -> str:
        for name in _OWN:
            monkeypatch.delenv(name, raising=False)
        text = sealed.seal_credentials(found, key_pair[1], "pub", form=form)
        monkeypatch.setenv("CREDENTIALS", text)
        return text

    assert s3.endpoint
    return put


def of_server(s3: S3Server, **changes: Any) -> Credentials:
    facts: dict[str, Any] = {"expiry": dt.datetime.now(dt.UTC) + dt.timedelta(hours=6)} | changes
    return Credentials(s3.access_key, s3.secret_key, "", "us-east-1", **facts)


def pings_job(folder: Path, s3: S3Server, **options: Any) -> Job:
    """A job over pings in a fresh bucket."""
    bucket = s3.bucket()
    for path in make_pings(folder / "in", files=3):
        s3.client.put_object(Bucket=bucket, Key=f"in/{path.name}", Body=path.read_bytes())
    settings: dict[str, Any] = {
        "inputs": [f"s3://{bucket}/in/**"],
        "records": "uuid-json",
        "mapper": {"script": script(folder, "mapper.py", MAPPER)},
        "reducer": "sum",
        "output": f"{folder}/out/result.txt",
    }
    return Job(**settings | options)


class TestFederate:
    """Tokens of STS that can only read a job's inputs."""

    def test_federated_credentials_allow_only_the_patterns(self, s3: S3Server) -> None:
        """Other prefixes and writing are refused."""
        bucket = s3.bucket()
        for key in ("in/a", "in/b", "other/c", "exact"):
            s3.client.put_object(Bucket=bucket, Key=key, Body=b"x")
        found = federate([f"s3://{bucket}/in/**", f"s3://{bucket}/exact"], seconds=900)
        assert found.expiry is not None
        assert found.session_token
        client = make_session(found).client("s3", endpoint_url=s3.endpoint)
        listed = client.list_objects_v2(Bucket=bucket, Prefix="in/")
        assert [item["Key"] for item in listed["Contents"]] == ["in/a", "in/b"]
        assert client.get_object(Bucket=bucket, Key="in/a")["Body"].read() == b"x"
        assert client.get_object(Bucket=bucket, Key="exact")["Body"].read() == b"x"
        for verb, words in (
            ("get_object", {"Key": "other/c"}),
            ("list_objects_v2", {"Prefix": "other/"}),
            ("list_objects_v2", {}),
            ("put_object", {"Key": "in/new", "Body": b""}),
            ("delete_object", {"Key": "in/a"}),
        ):
            with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
                getattr(client, verb)(Bucket=bucket, **words)

    def test_policy_keeps_exact_keys_and_cuts_globs(self) -> None:
        policy = make_policy(["s3://b/x/**/*.xz", "s3://b/y.gz", "s3://c"])
        assert [s["Resource"] for s in policy["Statement"]] == [
            ["arn:aws:s3:::b/x/*", "arn:aws:s3:::b/y.gz"],
            ["arn:aws:s3:::b"],
            ["arn:aws:s3:::c/*"],
            ["arn:aws:s3:::c"],
        ]
        condition = policy["Statement"][1]["Condition"]
        assert condition == {"StringLike": {"s3:prefix": ["x/*", "y.gz*"]}}

    def test_policy_too_long_joins_prefixes(self) -> None:
        policy = make_policy(f"s3://b/2014/{day:03d}/**" for day in range(300))
        assert len(json.dumps(policy)) < MAX_POLICY_CHARS
        assert policy["Statement"][0]["Resource"] == ["arn:aws:s3:::b/2014/*"]

    @pytest.mark.parametrize("seconds", [899, 129_601])
    def test_federate_lifetime_out_of_range_is_refused(self, seconds: int) -> None:
        with pytest.raises(JobError, match="15 min"):
            federate(["s3://b/"], seconds=seconds)

    def test_federate_with_unknown_keys_is_a_credentials_error(
        self, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert s3.endpoint
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
        result = CliRunner().invoke(main, ["credentials", "federate", "s3://b/**"])
        assert result.exit_code in (3, 4)
        assert "GetFederationToken" in result.stderr

    def test_federate_piped_into_seal_runs_the_job(
        self, s3: S3Server, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Jobs with other inputs fail."""
        job = pings_job(tmp_path, s3)
        runner = CliRunner()
        token = runner.invoke(main, ["credentials", "federate", str(job.inputs[0])])
        assert token.exit_code == 0, token.stderr
        envelope = runner.invoke(
            main, ["credentials", "seal", "--key", str(key_file)], input=token.stdout
        )
        for name in _OWN:
            monkeypatch.delenv(name, raising=False)
        registry._make_s3_of.cache_clear()
        with pytest.raises(CredentialsError):
            plan(job)
        monkeypatch.setenv("CREDENTIALS", envelope.stdout.strip())
        report, _ = run_told(job)
        assert report.ok
        other = str(job.inputs[0]).replace("/in/", "/other/")
        with pytest.raises(StoreError, match="access denied"):
            plan(job.model_copy(update={"inputs": (other,)}))


class TestInUse:
    """The envelope of a run."""

    def test_run_on_any_engine_sends_the_envelope_to_workers(
        self, s3: S3Server, tmp_path: Path, only_sealed: Callable[..., str], engine: str
    ) -> None:
        """The workers' environment has no envelope."""
        job = pings_job(tmp_path, s3)
        only_sealed(of_server(s3))
        report, notices = run_told(job, engine=engine)
        assert report.ok
        assert not [text for text in notices if "expire" in text]
        assert (tmp_path / "out" / "result.txt").read_bytes().count(b"\t15\n") == 4

    def test_envelope_of_2014_needs_the_key_s_permission(
        self,
        s3: S3Server,
        tmp_path: Path,
        only_sealed: Callable[..., str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        job = pings_job(tmp_path, s3)
        only_sealed(of_server(s3), "2014")
        with pytest.raises(CredentialsError, match="RAY_MR_ALLOW_2014"):
            plan(job)
        monkeypatch.setenv("RAY_MR_ALLOW_2014", "1")
        assert run_told(job)[0].ok

    def test_run_with_expired_credentials_is_refused(
        self, s3: S3Server, tmp_path: Path, only_sealed: Callable[..., str]
    ) -> None:
        """With exit code 3, before anything else."""
        job = pings_job(tmp_path, s3)
        only_sealed(of_server(s3, expiry=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)))
        with pytest.raises(CredentialsError, match="CREDENTIALS: the credentials have expired"):
            run_told(job)
        assert CredentialsError.exit_code == 3

    def test_run_longer_than_its_credentials_warns(
        self, s3: S3Server, tmp_path: Path, only_sealed: Callable[..., str]
    ) -> None:
        job = pings_job(tmp_path, s3)
        only_sealed(of_server(s3, expiry=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=10)))
        _, notices = run_told(job)
        assert [text for text in notices if "expire in" in text and "RAY_MR_RENEW" in text]

    def test_run_with_local_files_ignores_the_envelope(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even a broken one."""
        make_pings(tmp_path / "in", files=1)
        monkeypatch.setenv("CREDENTIALS", "broken")
        wanted = Job(
            inputs=[f"{tmp_path}/in/**"],
            records="uuid-json",
            output=f"{tmp_path}/o/result.txt",
            mapper={"script": script(tmp_path, "mapper.py", MAPPER)},
        )
        assert plan(wanted).total_inputs == 1

    @pytest.mark.parametrize("how", ["chain", "command"])
    def test_run_renews_expiring_credentials(
        self,
        s3: S3Server,
        only_sealed: Callable[..., str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        how: str,
    ) -> None:
        """In the running process."""
        bucket = s3.bucket()
        s3.client.put_object(Bucket=bucket, Key="a", Body=b"x")
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
        only_sealed(Credentials("AKIAOLD", "old", "", "us-east-1", soon))
        with pytest.raises(CredentialsError):
            list(store_for(f"s3://{bucket}/").find(f"s3://{bucket}/a"))
        facts = {"Version": 1, "AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key}
        if how == "chain":
            monkeypatch.setenv("RAY_MR_RENEW", "chain")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        else:
            program = tmp_path / "renew.py"
            program.write_text(f"print({json.dumps(json.dumps(facts))})")
            monkeypatch.setenv("RAY_MR_RENEW", f"command:{sys.executable} {program}")
        assert len(list(store_for(f"s3://{bucket}/").find(f"s3://{bucket}/"))) == 1

    def test_run_with_failing_renewal_hides_its_output(
        self, s3: S3Server, only_sealed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
        only_sealed(Credentials(s3.access_key, s3.secret_key, "", "us-east-1", soon))
        monkeypatch.setenv("RAY_MR_RENEW", "command:sh -c 'echo hidden-word; exit 1'")
        with pytest.raises(CredentialsError, match="command that renews") as caught:
            list(store_for("s3://b/").find("s3://b/x"))
        assert "hidden-word" not in str(caught.value)

    @pytest.mark.parametrize("text", ["what", "chain:x", "command:", "taskcluster:all/b/p"])
    def test_unknown_renewal_is_refused_with_the_valid_ones(self, text: str) -> None:
        with pytest.raises(JobError, match="RAY_MR_RENEW"):
            access.find_renewal({"RAY_MR_RENEW": text})


class _Watch(threading.Thread):
    """Looks for words in ``/proc`` while a run works, and in its files."""

    def __init__(self, words: list[bytes], folders: list[Path]) -> None:
        super().__init__(daemon=True)
        self.words, self.folders = words, folders
        self.found: set[str] = set()
        self.looked = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            self.look()

    def look(self) -> None:
        for process in [p for p in Path("/proc").iterdir() if p.name.isdigit()]:
            for name in ("environ", "cmdline"):
                self._check(process / name)
        for folder in self.folders:
            for place, _, names in os.walk(folder):  # what is gone meanwhile is passed over
                for path in (Path(place, name) for name in names):
                    if path.is_file() and not path.is_symlink():
                        self._check(path)

    def _check(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError:
            return
        self.looked += 1
        for word in self.words:
            if word in data:
                self.found.add(f"{word!r} in {path}")


SPY = """
import os
def mapper(uuid, file, js):
    for name in os.environ:
        yield name, 1
"""


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_run_writes_the_secret_nowhere(
    s3: S3Server,
    tmp_path: Path,
    key_pair: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    """Environment, command line, files, logs and report."""
    import subprocess

    job = pings_job(tmp_path, s3)
    (tmp_path / "key.pem").write_bytes(key_pair[0])
    token = federate(map(str, job.inputs), seconds=900)
    text = sealed.seal_credentials(token, key_pair[1], "pub")
    work = tmp_path / "work"
    work.mkdir()
    temporary = Path(tempfile.mkdtemp(prefix="t"))  # a short name, so that Ray's files are there
    script(work, "mapper.py", SPY)
    (work / "analysis-tools.yml").write_text(
        f"inputs: ['{job.inputs[0]}']\nrecords: uuid-json\nmapper: {{script: mapper.py}}\n"
        "reducer: count\n"
    )
    environ = {k: v for k, v in os.environ.items() if k not in (*_OWN, "RAY_ADDRESS")} | {
        "CREDENTIALS": text,
        "RAY_MR_KEY_FILE": str(tmp_path / "key.pem"),
        "TMPDIR": str(temporary),
    }
    secret = [token.secret_access_key.encode(), token.session_token.encode()]
    watch = _Watch(secret, [work, temporary])
    watch.start()
    command = [sys.executable, "-m", "ray_mr", "run", "analysis-tools.yml", "--engine", engine]
    done = subprocess.run(
        command, cwd=work, env=environ, capture_output=True, timeout=240, check=False
    )
    watch.ended.set()
    watch.join()
    watch.look()
    assert done.returncode == 0, done.stderr
    assert watch.looked > 100
    assert not watch.found
    for word in secret:
        assert word not in done.stdout + done.stderr
    children_saw = (work / "result.txt").read_text()
    assert "PATH\t" in children_saw
    for name in ("CREDENTIALS", "RAY_MR_KEY_FILE", "AWS_"):
        assert name not in children_saw
    # The watch can find what is there: the sealed text is in the command's environment.
    seen = _Watch([text.encode()], [])
    monkeypatch.setenv("CREDENTIALS", text)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, env=environ) as sleeper:
        seen.look()
        sleeper.kill()
    assert seen.found


def test_session_takes_the_region_of_the_envelope() -> None:
    """Without one, the environment's region remains."""
    assert make_session(Credentials("a", "b", region="eu-west-3")).region_name == "eu-west-3"
    assert make_session(Credentials("a", "b")).region_name == boto3.session.Session().region_name
