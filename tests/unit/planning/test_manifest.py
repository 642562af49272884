"""Manifests, from their lines to a run: lists of objects to read."""

from __future__ import annotations

import gzip
import io
import json
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_mr
from jobs import CAT, job, result, run_told
from ray_mr.driver.listing import MAX_LOOKUP_REQUESTS, MAX_LOOKUPS, list_objects
from ray_mr.errors import JobError, RayMrError, StoreError
from ray_mr.jobs.job import Job
from ray_mr.jobs.script import Manifest
from ray_mr.model import ManifestEntry
from ray_mr.planning import manifest
from ray_mr.stores.local import LocalStore
from ray_mr.stores.registry import store_for

if TYPE_CHECKING:
    from pathlib import Path

    from ray_mr.model import StoredObject
    from s3_server import S3Server


def read(*lines: bytes, bucket: str | None = None) -> list[ManifestEntry]:
    return list(manifest.read_manifest(lines, name="keys", bucket=bucket, folder="/data"))


class TestLines:
    """The lines of a manifest."""

    def test_name_is_kept_byte_for_byte(self) -> None:
        """Empty lines, line ends and a byte order mark are not part of it."""
        lines = [
            b"\xef\xbb\xbfs3://b/1\n",
            b"\n",
            b"  \r\n",
            b"s3://b/ 2%20 \r\n",
            b"x/\xff\n",
            b"y/",
        ]
        uris = [entry.uri for entry in read(*lines)]
        assert uris == ["s3://b/1", "s3://b/ 2%20 ", "/data/x/\udcff", "/data/y/"]
        assert [entry.uri for entry in read(b"a b\n", b"http://h/x", bucket="b")] == [
            "s3://b/a b",
            "http://h/x",
        ]

    def test_json_line_has_short_or_s3_keys(self) -> None:
        """The keys are size, ETag, version and bucket."""
        short_form = {"key": "k", "size": 5, "etag": "abc", "version": "v", "bucket": "c"}
        s3_form = {
            "Key": "k",
            "Size": 5,
            "ETag": '"abc"',
            "VersionId": "v",
            "bucket": "c",
            "LastModified": "2014",
            "StorageClass": "STANDARD",
            "Owner": {"ID": "x"},
        }
        expected = ManifestEntry("s3://c/k", 5, '"abc"', "v")
        for row in (short_form, s3_form):
            assert read(json.dumps(row).encode()) == [expected]
        assert read(b'{"key": "{", "size": null}', bucket="b") == [ManifestEntry("s3://b/{")]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b"{key: x}", "not JSON"),
            (b'{"key": "x"', "not JSON"),
            (b'{"size": 1}', "key is missing"),
            (b'{"key": ""}', "key must be text"),
            (b'{"key": 5}', "key must be text"),
            (b'{"key": "x", "size": -1}', "size must be a whole number"),
            (b'{"key": "x", "size": "1"}', "size must be a whole number"),
            (b'{"key": "x", "size": true}', "size must be a whole number"),
            (b'{"key": "x", "etag": 1}', "etag must be text"),
            (b'{"key": "x", "seize": 1}', "did you mean `size`"),
            (b'{"key": "x", "Key": "y"}', "key is given twice"),
            (b"{" * 60_000, "not JSON"),
            (b"x" * 70_000, "too long"),
            ("s3://b/k".encode("utf-16"), "not text"),
        ],
    )
    def test_malformed_line_error_has_its_number(self, line: bytes, words: str) -> None:
        with pytest.raises(JobError, match=words) as caught:
            read(b"good\n", b"\n", line)
        assert caught.value.message.startswith("keys:3: ")

    def test_compressed_manifest_is_refused(self) -> None:
        with pytest.raises(JobError, match=r"(?s)keys:1: .*not text.*not compressed"):
            read(*gzip.compress(b"s3://b/k\n" * 99).splitlines(keepends=True))

    def test_empty_manifest_is_refused(self) -> None:
        """It may have been meant to hold names."""
        with pytest.raises(JobError, match="no inputs in keys"):
            read(b"\n", b" \n")

    @given(st.lists(st.binary(max_size=60), max_size=5), st.sampled_from([None, "b"]))
    def test_any_bytes_are_names_or_an_error(self, lines: list[bytes], bucket: str | None) -> None:
        try:
            for entry in read(*lines, bucket=bucket):
                assert "://" in entry.uri or entry.uri.startswith("/")
        except RayMrError:
            pass

    @given(
        st.dictionaries(
            st.sampled_from(["key", "size", "etag", "version", "bucket", "Key", "other"]),
            st.none() | st.integers() | st.text(max_size=9) | st.lists(st.none(), max_size=2),
        )
    )
    def test_any_json_is_an_object_or_an_error(self, row: dict[str, Any]) -> None:
        try:
            (entry,) = read(json.dumps(row).encode(), bucket="b")
        except JobError:
            return
        assert entry.size_bytes is None or entry.size_bytes >= 0


class TestListing:
    """The objects of a job's inputs."""

    def objects(self, folder: Path, text: str, **options: Any) -> list[StoredObject]:
        (folder / "keys").write_text(text)
        inputs = [{"manifest": str(folder / "keys"), "folder": str(folder)}]
        return list(list_objects(Job(**{"inputs": inputs, "mapper": CAT, **options})))

    def test_local_paths_keep_order_of_manifest(self, tmp_path: Path) -> None:
        """Their keys are relative to its folder."""
        for name in ("b.txt", "a[1].txt", "d/c.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        objects = self.objects(tmp_path, 'b.txt\na[1].txt\n{"key": "d/c.txt", "size": 7}\nd/\n')
        assert [obj.key for obj in objects] == ["b.txt", "a[1].txt", "d/c.txt", "c.txt"]
        assert [obj.size_bytes for obj in objects] == [5, 8, 7, 7]
        with pytest.raises(StoreError, match=r"none\.txt"):
            self.objects(tmp_path, "none.txt")
        with pytest.raises(JobError, match="has 5 bytes, not 6"):
            self.objects(tmp_path, '{"key": "b.txt", "size": 6}')
        with pytest.raises(JobError, match="no versions"):
            self.objects(tmp_path, '{"key": "b.txt", "version": "1"}')

    @pytest.mark.slow
    def test_many_names_keep_their_order(self, tmp_path: Path) -> None:
        """An error in the last name is reported."""
        (tmp_path / "x").write_text("x")
        names = [f"{number}" for number in range(3_000)]
        for name in names[::-1]:
            (tmp_path / name).write_text(name)
        objects = self.objects(tmp_path, "\n".join(names))
        assert [obj.key for obj in objects] == names
        with pytest.raises(StoreError, match="absent"):
            self.objects(tmp_path, "\n".join([*names, "absent"]))

    def test_first_object_does_not_wait_for_all(self, tmp_path: Path) -> None:
        for number in range(500):
            (tmp_path / f"{number}").write_text("")
        keys = tmp_path / "keys"
        keys.write_text("\n".join(str(number) for number in range(500)) * 20)
        objects = list_objects(
            Job(inputs=[Manifest(manifest=str(keys), folder=str(tmp_path))], mapper=CAT)
        )
        assert next(objects).key == "0"
        objects.close()

    def test_missing_manifest_is_a_job_error(self, tmp_path: Path) -> None:
        manifest_job = Job(inputs=[{"manifest": str(tmp_path / "none")}], mapper=CAT)
        with pytest.raises(JobError, match="none cannot be read: No such file"):
            list(list_objects(manifest_job))

    def test_paths_are_relative_to_the_job_file(self, tmp_path: Path) -> None:
        """The manifest, its paths and a filter are."""
        (tmp_path / "jobs").mkdir()
        (tmp_path / "jobs" / "job.yml").write_text(
            "inputs: [{manifest: keys}, {manifest: '-'}, {manifest: s3://b/k, folder: x}]\n"
            "filter: f.json\nmapper: {language: binary, script: cat}\n"
        )
        file_job = Job.from_file(tmp_path / "jobs" / "job.yml")
        here = f"{tmp_path}/jobs"
        assert file_job.inputs == (
            Manifest(manifest=f"{here}/keys", folder=here),
            Manifest(manifest="-", folder=here),
            Manifest(manifest="s3://b/k", folder=f"{here}/x"),
        )
        assert file_job.filter == f"{here}/f.json"

    def test_bucket_makes_plain_inputs_its_keys(self, tmp_path: Path) -> None:
        """A flag overrides the file."""
        path = tmp_path / "job.yml"
        path.write_text(
            "bucket: b\ninputs: [x/**, s3://c/y]\nmapper: {language: binary, script: cat}\n"
        )
        assert Job.from_file(path).inputs == ("s3://b/x/**", "s3://c/y")
        flag_job = Job.from_file(path, inputs=["k 1"], overrides={"bucket": "d"})
        assert flag_job.inputs == ("s3://d/k 1",)
        with pytest.raises(JobError, match="--bucket: must be a bucket's name alone"):
            Job.from_file(path, overrides={"bucket": "s3://d"})

    @pytest.mark.parametrize(
        ("inputs", "words"),
        [
            ("[{manifests: x}]", r"inputs\[0\].manifests: unknown key; did you mean `manifest`"),
            ("[{}]", r"inputs\[0\].manifest: is missing"),
            ("[[a]]", r"inputs\[0\]: must be text, or \{manifest: keys.txt\}"),
        ],
    )
    def test_invalid_input_error_has_place_and_remedy(
        self, tmp_path: Path, inputs: str, words: str
    ) -> None:
        path = tmp_path / "job.yml"
        path.write_text(f"inputs: {inputs}\nmapper: {{language: binary, script: cat}}\n")
        with pytest.raises(JobError, match=words):
            Job.from_file(path)


class TestS3:
    """Manifests of a real S3 server."""

    def put(self, s3: S3Server, bucket: str, **objects: bytes) -> dict[str, str]:
        return {
            name: s3.client.put_object(Bucket=bucket, Key=name, Body=data)["ETag"]
            for name, data in objects.items()
        }

    def test_run_with_manifest_in_s3_or_stdin(
        self, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The manifest has names of two buckets."""
        one, two = s3.bucket(), s3.bucket()
        etags = self.put(s3, one, a=b"1\n", b=b"2\n")
        self.put(s3, two, c=b"3\n")
        lines = f'b\n{{"key": "a", "size": 2, "etag": {etags["a"]}}}\ns3://{two}/c\n'
        s3.client.put_object(Bucket=two, Key="keys", Body=lines.encode())
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines.encode())))
        for source in (f"s3://{two}/keys", "-"):
            manifest_job = job(
                tmp_path,
                inputs=[{"manifest": source}],
                bucket=one,
                mapper=CAT,
                reducer=None,
                records=None,
            )
            report, _ = run_told(manifest_job)
            assert report.ok
            assert result(tmp_path) == b"2\n1\n3\n"

    def test_object_with_size_and_etag_is_not_looked_up(self, s3: S3Server, tmp_path: Path) -> None:
        """A wrong ETag fails that input."""
        bucket = s3.bucket()
        etags = self.put(s3, bucket, good=b"good\n", other=b"other\n")
        keys = tmp_path / "keys"
        keys.write_text(
            f'{{"key": "absent", "size": 3, "etag": "abc"}}\n'
            f'{{"key": "good", "size": 5, "etag": {etags["good"]}}}\n'
            f'{{"key": "other", "size": 6, "etag": {etags["good"]}}}\n'
        )
        manifest_job = job(
            tmp_path,
            inputs=[{"manifest": str(keys)}],
            bucket=bucket,
            mapper=CAT,
            reducer=None,
            records=None,
            max_failed_inputs=2,
        )
        assert ray_mr.plan(manifest_job).total_bytes == 14
        report, _ = run_told(manifest_job)
        assert report.ok
        assert result(tmp_path) == b"good\n"
        assert [uri for uri, _ in report.failed] == [
            f"s3://{bucket}/absent",
            f"s3://{bucket}/other",
        ]

    def test_named_version_is_read(self, s3: S3Server, tmp_path: Path) -> None:
        """Later versions of the object exist."""
        bucket = s3.bucket()
        s3.client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        ids = [
            s3.client.put_object(Bucket=bucket, Key="k.txt", Body=b"%d\n" % number)["VersionId"]
            for number in range(3)
        ]
        store = store_for("s3://x")
        (obj,) = store.find(f"s3://{bucket}/k.txt?versionId={ids[0]}")
        assert (obj.key, obj.uri) == ("k.txt", f"s3://{bucket}/k.txt?versionId={ids[0]}")
        (newest,) = store.find(f"s3://{bucket}/k.txt")
        assert newest.uri == f"s3://{bucket}/k.txt"
        with pytest.raises(StoreError, match="has no version"):
            list(store.find(f"s3://{bucket}/k.txt?versionId={ids[0][:-1]}x"))
        keys = tmp_path / "keys"
        keys.write_text(
            "".join(json.dumps({"key": "k.txt", "version": one}) + "\n" for one in ids[:2])
        )
        manifest_job = job(
            tmp_path,
            inputs=[{"manifest": str(keys)}, f"s3://{bucket}/k.txt"],
            bucket=bucket,
            mapper=CAT,
            reducer=None,
            records=None,
        )
        report, _ = run_told(manifest_job)
        assert report.ok
        assert result(tmp_path) == b"0\n1\n2\n"


def test_lookups_use_all_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects with unknown sizes are looked up by all threads at once, and keep their order."""
    together = threading.Barrier(MAX_LOOKUPS, timeout=60)
    stat = LocalStore.stat

    def patient(self: LocalStore, uri: str, *, version: str = "") -> StoredObject:
        together.wait()
        return stat(self, uri, version=version)

    monkeypatch.setattr(LocalStore, "stat", patient)
    names = [f"x{number:03d}" for number in range(MAX_LOOKUPS * MAX_LOOKUP_REQUESTS)]
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "keys").write_text("\n".join(names))
    manifest_job = Job(
        inputs=[{"manifest": str(tmp_path / "keys"), "folder": str(tmp_path)}], mapper=CAT
    )
    assert [obj.key for obj in list_objects(manifest_job)] == names
