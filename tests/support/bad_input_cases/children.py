"""Programs of the user that fail, hang, or do what nobody expects."""

from __future__ import annotations

from dataclasses import replace

from bad_input import Case

SUBJECT = "Programs"
RUN = "ray-mr run job.yml --engine local"
JOB = "inputs: [in/**]\nrecords: text\nattempts: 2\nmapper: {script: mapper.py}\n"
BINARY = "inputs: [in/**]\nattempts: 2\nmapper: {language: binary, script: ./mapper.sh}\n"
INPUT = {"in/1.txt": "one\n", "in/2.txt": "two\n"}
BOTH = b"one\ntwo\n"
CAT = 'while read f; do cat "$f"; done'


def python(
    name: str,
    source: str,
    code: int,
    *says: str,
    result: bytes | None = None,
    options: str = "",
    note: str = "",
) -> Case:
    """A Python mapper."""
    return Case(
        name,
        RUN,
        code,
        says,
        files=INPUT | {"job.yml": JOB + options, "mapper.py": source},
        shown=shown("mapper.py", source),
        result=result,
        note=note,
    )


def shell(
    name: str,
    source: str,
    code: int,
    *says: str,
    result: bytes | None = None,
    options: str = "",
    head: str = "#!/bin/sh",
    note: str = "",
) -> Case:
    """A shell script that reads file names."""
    content = f"{head}\n{source}\n"
    return Case(
        name,
        RUN,
        code,
        says,
        files=INPUT | {"job.yml": BINARY + options, "mapper.sh": content},
        shown=shown("mapper.sh", content),
        result=result,
        note=note,
    )


def reducer(name: str, source: str, code: int, *says: str) -> Case:
    """A Python reducer."""
    files = {
        "mapper.py": "def mapper(file, line):\n    return line + ' 1\\n'\n",
        "reducer.py": source,
    }
    return Case(
        name,
        RUN,
        code,
        says,
        shown=shown("reducer.py", source),
        files=INPUT | files | {"job.yml": JOB + "reducer: {script: reducer.py}\n"},
    )


def shown(name: str, source: str) -> str:
    return "\n".join(f"{name}: {line}".rstrip() for line in source.strip().splitlines())


def on_a_small_disk(case: Case) -> Case:
    """The same, of one input, with a temporary folder of 2 MB."""
    words = "ray-mr run job.yml in/1.txt --engine local"
    return replace(case, words=words, before=lambda user: user.small_disk(user.tmp, "2m"))


BOTH_FAILED = ("nothing was published", "2 inputs failed, 0 allowed", "/home/me/job/in/1.txt")

CASES = [
    python(
        "A mapper that raises",
        "def mapper(file, line):\n    return {}[line]\n",
        6,
        *BOTH_FAILED,
        "mapper.py raised KeyError: 'one' at line 1",
    ),
    python(
        "A mapper that does not load",
        "import no_such_module\n",
        6,
        "mapper.py does not load",
        "No module named 'no_such_module'",
    ),
    python(
        "A mapper with a syntax error",
        "def mapper(file, line)\n",
        6,
        "mapper.py does not load: ",
        "line 1",
    ),
    python(
        "A script without the function",
        "def map(file, line):\n    pass\n",
        6,
        "mapper.py has no function mapper",
    ),
    python(
        "A mapper with other arguments",
        "def mapper(line):\n    return line\n",
        6,
        "TypeError",
        "takes 1 positional argument but 2 were given",
    ),
    python(
        "A mapper that exits 3",
        "import os\ndef mapper(file, line):\n    os._exit(3)\n",
        6,
        "ended with exit code 3",
    ),
    python(
        "A mapper that exits 0 half-way",
        "import os\ndef mapper(file, line):\n    os._exit(0)\n",
        6,
        "ended with exit code 0 before it had read every input",
    ),
    python(
        "A mapper that is killed",
        "import os\ndef mapper(file, line):\n    os.kill(os.getpid(), 9)\n",
        6,
        "was killed by SIGKILL (often the kernel, out of memory)",
    ),
    python(
        "A mapper that crashes",
        "import os\ndef mapper(file, line):\n    os.kill(os.getpid(), 11)\n",
        6,
        "was killed by SIGSEGV",
    ),
    python(
        "A mapper that hangs",
        "import time\ndef mapper(file, line):\n    time.sleep(600)\n",
        6,
        "made no progress for 1.0 s (stall_timeout) and was killed",
        options="stall_timeout: 1\n",
    ),
    python(
        "A mapper that takes too long",
        "def mapper(file, line):\n    while True:\n        pass\n",
        6,
        "ran for more than 1.0 s (timeout) and was killed",
        options="timeout: 1\n",
    ),
    python(
        "A mapper that prints to stdout",
        "def mapper(file, line):\n    print('hello', line)\n    return line + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
        note="What it prints goes to the log: the result is what it returns.",
    ),
    python(
        "A mapper that returns None",
        "def mapper(file, line):\n    pass\n",
        0,
        "2 records mapped",
        result=b"",
    ),
    python(
        "A mapper that returns what is no output",
        "def mapper(file, line):\n    return {line: 1}\n",
        6,
        "expected text, a (key, value) pair, or an iterable of them, got dict",
    ),
    python(
        "A mapper that writes 10 MB to stderr",
        "import sys\ndef mapper(file, line):\n"
        "    sys.stderr.write('x' * 10_000_000)\n    return line + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
    ),
    python(
        "A mapper that changes directory",
        "import os\ndef mapper(file, line):\n    os.chdir('/')\n    return line + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
    ),
    python(
        "A mapper that reads its stdin",
        "import sys\ndef mapper(file, line):\n    return line + sys.stdin.read() + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
        note="It finds the end.",
    ),
    python(
        "A mapper that closes its streams",
        "import os\ndef mapper(file, line):\n    for number in (0, 1, 2):\n"
        "        os.close(number)\n    return line + '\\n'\n",
        6,
        "Bad file descriptor",
    ),
    python(
        "A mapper that forks and goes on twice",
        "import os\ndef mapper(file, line):\n    os.fork()\n    return line + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
        note="What a copy of it puts out does not count.",
    ),
    python(
        "A mapper that takes all memory",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "def mapper(file, line):\n    return 'x' * 2**31\n",
        6,
        "MemoryError",
    ),
    python(
        "A mapper that leaves a process running",
        "import subprocess\ndef mapper(file, line):\n"
        "    subprocess.Popen(['sleep', '600'])\n    return line + '\\n'\n",
        0,
        "2 records mapped",
        result=BOTH,
        note="It is ended with the mapper.",
    ),
    reducer(
        "A reducer that raises",
        "def reduce(key, values):\n    return key + values\n",
        6,
        "reducer.py raised TypeError",
        "at key 'one'",
    ),
    reducer(
        "A reducer that exits 3",
        "import os\ndef reduce(key, values):\n    os._exit(3)\n",
        6,
        "ended with exit code 3",
    ),
    reducer(
        "A reducer that does not load", "import no_such_module\n", 6, "reducer.py does not load"
    ),
    shell(
        "A program that exits 3",
        "cat >/dev/null\necho 'no such table' >&2\nexit 3",
        6,
        *BOTH_FAILED,
        "ended with exit code 3; the end of its stderr",
        "no such table",
    ),
    shell("A program that is killed", "kill -9 $$", 6, "was killed by SIGKILL"),
    shell(
        "An interpreter that is missing",
        CAT,
        6,
        "cannot run 'mapper.sh'",
        "its first line names '/usr/bin/awwk', which is not an interpreter here",
        head="#!/usr/bin/awwk",
    ),
    shell(
        "A script with line ends of Windows",
        CAT,
        6,
        "cannot run 'mapper.sh'",
        "convert the script to LF line ends",
        head="#!/bin/sh\r",
    ),
    shell(
        "A program without a first line",
        CAT,
        0,
        "2 ok",
        result=BOTH,
        head="",
        note="A shell runs it.",
    ),
    shell(
        "A program that never reads its stdin",
        "echo done",
        6,
        "closed its stdin and ended before it had read every file name",
    ),
    shell(
        "A program that closes its stdin early",
        'read f; exec 0<&-; cat "$f"; sleep 0.2',
        6,
        "closed its stdin and ended before it had read every file name",
    ),
    shell(
        "A program that writes 10 MB to stderr",
        f"head -c 10000000 /dev/zero >&2; {CAT}",
        0,
        "2 ok",
        result=BOTH,
    ),
    shell(
        "A program that changes directory",
        'cd /tmp; while read f; do cat "$OLDPWD/$f"; done',
        0,
        "2 ok",
        result=BOTH,
    ),
    shell("A program that leaves no output", "cat >/dev/null", 0, "2 ok", result=b""),
    shell(
        "A program that leaves a process running",
        f"(trap '' TERM HUP; setsid sleep 600) > /dev/null 2>&1 & {CAT}",
        0,
        "2 ok",
        result=BOTH,
        note="It is ended with the program.",
    ),
    shell(
        "A program that leaves a process running which holds its output",
        f"sleep 600 & {CAT}",
        6,
        "processes that it left behind hold its output: sleep",
        "made no progress for 1.0 s (stall_timeout)",
        "start a process that is to go on with `> /dev/null &`, or wait for it",
        options="stall_timeout: 1\n",
    ),
    shell(
        "A program whose last words come from a process that it left running",
        f"(sleep 2; echo late) & {CAT}",
        0,
        "2 ok",
        result=BOTH + b"late\n",
        note="Output is read to its end, as from a pipe.",
    ),
    shell(
        "A program that hangs",
        "sleep 600",
        6,
        "made no progress for 1.0 s (stall_timeout)",
        options="stall_timeout: 1\n",
    ),
]

DISK = [
    python(
        "A mapper that fills the disk",
        "def mapper(file, line):\n    with open('big', 'wb') as big:\n"
        "        big.write(bytes(10_000_000))\n",
        6,
        "mapper.py raised OSError: [Errno 28] No space left on device at line 1",
    ),
    shell(
        "A program that fills the disk",
        "head -c 10000000 /dev/zero >big || exit 1",
        6,
        "mapper.sh ended with exit code 1",
        "No space left on device",
    ),
    shell(
        "A program whose output fills the disk",
        f"head -c 10000000 /dev/zero; {CAT}",
        4,
        "disk full: /tmp/ray_mr",
        "free some space or use a larger disk",
    ),
]
CASES += [on_a_small_disk(case) for case in DISK]
