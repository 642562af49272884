"""The table of stores: which URIs can be read, and which can be written."""

from __future__ import annotations

import pytest

from ray_mr.errors import JobError
from ray_mr.stores.registry import store_for, writable_store_for


@pytest.mark.parametrize("uri", ["/out/os.txt", "file:///out/os.txt", "s3://bucket/out/"])
def test_writable_store_for_a_writable_uri_is_the_readable_one(uri: str) -> None:
    assert writable_store_for(uri) is store_for(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://host/out", "http://host/out: nothing can be written to a web server"),
        ("https://me:pw@host/out", "https://host/out: nothing can be written to a web server"),
        ("taskcluster://task/out", "taskcluster://task/out: a task's artifacts are made by its"),
        ("gopher://host/out", "gopher://host/out: there is no store for gopher://"),
    ],
)
def test_writable_store_for_a_read_only_uri_is_refused(uri: str, message: str) -> None:
    with pytest.raises(JobError) as caught:
        writable_store_for(uri)
    assert caught.value.message.startswith(message)
    assert caught.value.exit_code == 2
