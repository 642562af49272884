"""Records that are not what the job says they are, and records that are merely odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bad_input import Case, Told, User

if TYPE_CHECKING:
    from collections.abc import Callable

SUBJECT = "Records"
RUN = "ray-mr run job.yml --engine local"
UUID = "0f5a1c3e-0000-4000-8000-00000000000"
PINGS = "def mapper(uuid, file, js):\n    return js['os'] + ' 1\\n'\n"
OBJECTS = "def mapper(file, js):\n    return js['os'] + ' 1\\n'\n"
TEXT = "def mapper(file, line):\n    return repr(line) + '\\n'\n"
SCRIPTS = {"uuid-json": PINGS, "json": OBJECTS, "text": TEXT}
REFUSED = "1 record could not be read, 0 allowed; the first: /home/me/job/in.txt line {line}: "


def ping(number: int, text: str = '{"os": "Linux"}') -> bytes:
    return f"{UUID}{number}\t{text}\n".encode()


def records(
    name: str,
    kind: str,
    content: bytes | Callable[[], bytes],
    code: int,
    *says: str,
    result: bytes | None = None,
    shown: str = "",
    options: str = "",
    mapper: str = "",
    note: str = "",
) -> Case:
    """A run over one file with these records."""

    def write(user: User) -> None:
        user.put("in.txt", content if isinstance(content, bytes) else content())

    job = f"inputs: [in.txt]\nrecords: {kind}\nmapper: {{script: mapper.py}}\n{options}"
    return Case(
        name,
        RUN,
        code,
        says,
        files={"job.yml": job, "mapper.py": mapper or SCRIPTS[kind]},
        before=write,
        result=result,
        shown=shown,
        note=note,
    )


def set_aside(name: str, kind: str, line: bytes, why: str, shown: str = "") -> Case:
    """A second record that cannot be parsed, where none may be."""
    good = ping(1) if kind == "uuid-json" else b'{"os": "Linux"}\n'
    says = ("nothing was published", REFUSED.format(line=2) + why, "--max-bad-records")
    return records(name, kind, good + line + good, 5, *says, shown=shown)


CASES = [
    set_aside(
        "A line that is not `uuid TAB json`",
        "uuid-json",
        b"hello\n",
        "no TAB after 36 characters",
        "in.txt: hello",
    ),
    set_aside(
        "A uuid without JSON", "uuid-json", ping(2, ""), "not JSON at character 1 (Expecting value)"
    ),
    set_aside(
        "JSON that is cut short",
        "uuid-json",
        ping(2, '{"os": "Lin'),
        "not JSON at character ",
        'in.txt: {"os": "Lin',
    ),
    set_aside(
        "A line of JSON that is none",
        "json",
        b"os=Linux\n",
        "not JSON at character ",
        "in.txt: os=Linux",
    ),
    set_aside(
        "An empty line among JSON", "json", b"\n", "not JSON at character 1 (Expecting value)"
    ),
    set_aside(
        "JSON that is not UTF-8", "uuid-json", UUID.encode() + b'2\t{"os": "\xff"}\n', "not UTF-8"
    ),
    set_aside("A uuid that is not UTF-8", "uuid-json", b"\xff" * 36 + b"\t{}\n", "not UTF-8"),
    set_aside("A NUL in JSON", "uuid-json", ping(2, '{"os": "\0"}'), "not JSON at character "),
    set_aside(
        "JSON that is nested too deeply",
        "json",
        b"[" * 200_000 + b"]" * 200_000 + b"\n",
        "nested too deeply",
    ),
    set_aside(
        "A byte order mark before the uuid",
        "uuid-json",
        b"\xef\xbb\xbf" + ping(2),
        "no TAB after 36 characters",
    ),
    records(
        "Bad records that are allowed",
        "uuid-json",
        ping(1) + b"hello\n" + ping(2),
        0,
        "2 records mapped, 1 set aside",
        result=b"Linux 1\nLinux 1\n",
        options="max_bad_records: 1\n",
    ),
    records(
        "A byte order mark before JSON",
        "json",
        b'\xef\xbb\xbf{"os": "Linux"}\n',
        0,
        "1 record mapped, 0 set aside",
        result=b"Linux 1\n",
    ),
    records(
        "Lines that end in CRLF",
        "json",
        b'{"os": "Linux"}\r\n{"os": "WINNT"}\r\n',
        0,
        "2 records mapped",
        result=b"Linux 1\nWINNT 1\n",
    ),
    records(
        "Text whose lines end in CRLF, without a newline at the end",
        "text",
        b"a\r\nb",
        0,
        "2 records mapped",
        result=b"'a\\r'\n'b'\n",
        note="The CR is part of the line.",
    ),
    records(
        "Text with NUL and bytes that are not UTF-8",
        "text",
        b"\0\xff\n",
        0,
        "1 record mapped",
        result=b"'\\x00\\udcff'\n",
        note="Bytes that are no UTF-8 come as surrogates (`\\udcff`) and go out as they came.",
    ),
    records("An empty file", "text", b"", 0, "1 input: 1 ok", result=b""),
    records(
        "A line of 50 MB",
        "text",
        lambda: b"x" * 50_000_000 + b"\ny\n",
        0,
        "2 records mapped",
        result=b"50000000\n1\n",
        mapper="def mapper(file, line):\n    return f'{len(line)}\\n'\n",
    ),
    records(
        "An output line of 50 MB",
        "text",
        b"x\n",
        0,
        "1 record mapped",
        result=b"x" * 50_000_000 + b"\n",
        mapper="def mapper(file, line):\n    return line * 50_000_000 + '\\n'\n",
    ),
]


def check(_user: User, outcome: Told) -> None:
    """The content of a record is never shown."""
    assert "hello" not in outcome.output
