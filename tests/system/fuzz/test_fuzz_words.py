"""Fuzzing of what is read word by word: job files, and the frames of a harness.

Whatever comes: a job or a ``JobError``; frames or a ``ChildProtocol``; never anything else.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from fuzz import mutated, seeds
from ray_mr.child import wire
from ray_mr.errors import ChildProtocol, JobError
from ray_mr.jobs.job import Job
from ray_mr.jobs.program import pack_program
from ray_mr.jobs.script import Script

if TYPE_CHECKING:
    import random
    from pathlib import Path

LONG = b"""\
name: os-count
inputs: [s3://bucket/in/**, 'local/*.gz', {manifest: keys.txt}]
mapper: {language: python, script: mapper.py, arguments: [a, --b]}
records: uuid-json
combiner: sum
reducer: {language: python, script: reducer.py}
reducers: 4
split_bytes: 1MiB
timeout: 2h
max_bad_records: none
env: {A: b}
"""
THREE = b"language: python\nscript: mapper.py\narguments: [a]\n"
GOOD = [LONG, THREE]
MARKS = [b"&a ", b"*a", b"- ", b"{", b"]", b"!!binary ", b"<<: ", b"\t", b"'", b"|\n", b"? ", b"%"]
KEYS = [*Job.model_fields, *Script.model_fields, "manifest", "nothing"]
VALUES: list[object] = [
    None,
    True,
    -1,
    0,
    2.5,
    10**400,
    "",
    "none",
    "auto",
    "sum",
    "python",
    "9" * 5000,
    "1e999",
    "\0",
    "\ud800",
    [],
    {},
    ["x"],
    [[["x"]]],
    {"script": "m.py"},
    {"manifest": "-"},
    {"x": {"y": 1}},
]


def read(folder: Path, content: bytes) -> int:
    """Read a job file in every role; only errors about the job may come.

    Returns:
        In how many roles it is a job.
    """
    path = folder / "job.yml"
    path.write_bytes(content)
    well = 0
    for role, inputs in (("run", []), ("map", ["x"]), ("reduce", ["x"])):
        try:
            job = Job.from_file(path, role=role, inputs=inputs)  # type: ignore[arg-type]
        except JobError as error:
            assert str(path) in error.message
            assert len(str(error)) < 100_000
            continue
        well += 1
        assert job.without_functions() == job
        assert job.inputs
        assert job.fed in {"records", "files", "lines", "identity"}
    return well


def test_job_files_with_mistakes(tmp_path: Path) -> None:
    """Good job files in which bytes are changed, lost and doubled."""
    well = 0
    for chance in seeds(150, share=0.4):
        well += read(tmp_path, mutated(chance, chance.choice(GOOD), [*GOOD, *MARKS]))
    assert well


def test_job_files_of_any_bytes(tmp_path: Path) -> None:
    """Bytes that are no YAML at all."""
    for chance in seeds(150, share=0.1):
        read(tmp_path, chance.randbytes(chance.randrange(200)))


def test_job_files_with_any_values(tmp_path: Path) -> None:
    """Known keys at every depth with values of any kind; JSON is YAML."""
    base: dict[str, object] = {"inputs": ["x"], "records": "text", "mapper": {"script": "m.py"}}
    well = 0
    for chance in seeds(150, share=0.3):
        odd = {chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(1, 5))}
        for step in ("mapper", "reducer", "combiner"):
            if chance.random() < 0.15:
                odd = {step: {"script": "m.py"} | odd}
        well += read(tmp_path, json.dumps(base | odd).encode())
    assert well


DEEP = [
    b"[" * 900,
    b"{a: " * 900,
    b"- " * 3000,
    b"? " * 3000,
    b"&a [*a]",
    b"&a {x: *a}",
    b"{[a]: b}",
    b"{{a: b}: c}",
    b"!!set {x}",
    b"!!python/object:os.system x",
    b"!<tag:yaml.org,2002:int> 1",
    b"1" * 70_000,
    b"'" + b"x" * 70_000 + b"'",
    b"|2\n" + b"   x\n" * 9000,
    b"2001-01-01",
    b"0x1F",
    b".inf",
    b"~",
    b"*nowhere",
    b"!!binary aGVsbG8=",
]


def test_job_files_with_odd_yaml(tmp_path: Path) -> None:
    """YAML that is deep, long, tagged or refers to itself, as the value of any key."""
    for chance in seeds(15, share=0.2):
        lines = chance.choice(GOOD).splitlines()
        value = chance.choice([*DEEP, mutated(chance, chance.choice(DEEP), [*DEEP, *MARKS])])
        line = chance.choice(KEYS).encode() + b": " + value
        lines.insert(chance.randrange(len(lines) + 1), line)
        read(tmp_path, b"\n".join([*lines, b""]))


@pytest.mark.parametrize("key", ["inputs", "mapper", "env", "name", "unknown"])
def test_a_bomb_of_references(tmp_path: Path, key: str) -> None:
    """YAML whose references stand for more values than there is memory for is refused at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path = tmp_path / "job.yml"
    path.write_text("\n".join([*lines, f"{key}: *a11", ""]))
    with pytest.raises(JobError) as caught:
        Job.from_file(path)
    assert len(str(caught.value)) < 20_000


def frames(chance: random.Random) -> list[wire.Frame]:
    """A few frames as a harness sends them."""
    names = ["hello", "text", "pairs", "done", "failed", "progress"]
    return [
        wire.Frame(
            chance.choice(names),
            chance.randrange(1 << 40),
            chance.randrange(1 << 20),
            chance.randbytes(chance.choice([0, 1, 10, 5000])),
        )
        for _ in range(chance.randrange(5))
    ]


def decoded(chance: random.Random, stream: bytes) -> list[wire.Frame]:
    """The stream's frames, fed in pieces of any size."""
    decoder = wire.Decoder()
    found: list[wire.Frame] = []
    at = 0
    while at < len(stream):
        size = chance.choice([1, 2, 79, 80, 81, 4096])
        found += decoder.feed(stream[at : at + size])
        at += size
    decoder.close()
    return found


def test_mutated_frames_decode_or_are_refused() -> None:
    """Unchanged frames come back as they were sent."""
    for chance in seeds(200, share=0.2):
        sent = frames(chance)
        stream = b"".join(wire.encode(f.name, f.position, f.count, f.payload) for f in sent)
        assert decoded(chance, stream) == sent
        with contextlib.suppress(ChildProtocol):
            odd = mutated(chance, stream, [b"text 1 2 3\n", b"pairs 9 9 99999999999999\n"])
            assert sum(len(frame.payload) for frame in decoded(chance, odd)) <= len(odd)


def test_a_script_whose_name_can_be_no_path() -> None:
    """A name of 5,000 letters is not a script, and gets an error that says so."""
    with pytest.raises(JobError, match="no such script"):
        pack_program(Script(language="binary", script="9" * 5000))
    with pytest.raises(JobError, match="no such script"):
        pack_program(Script(script="9" * 5000))


def test_a_key_that_looks_like_a_tag(tmp_path: Path) -> None:
    """YAML's merge key is no key of a job, and is told as such."""
    path = tmp_path / "job.yml"
    path.write_bytes(THREE.replace(b"language", b"<<") + b"inputs: [x]\n")
    with pytest.raises(JobError, match="<<: "):
        Job.from_file(path)
    path.write_text("inputs: [x]\nmapper: {script: m.py, <program>: 1}\nrecords: text\n<<: x\n")
    with pytest.raises(JobError, match=r"<program>: unknown key\n.*<<: unknown key"):
        Job.from_file(path)
