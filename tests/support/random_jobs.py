"""Random jobs with their expected result: feeds x codecs x separators x order x reducers x crashes.

``RandomJob(seed)`` is the same job every time.  ``write`` makes its files in a folder and returns
the options of a ``Job``; ``check`` compares the published parts with the plain reading of
``oracle``.  A chance crash is a file that the program removes before it kills itself: so many
files, so many crashes, whichever attempt comes first.
"""

from __future__ import annotations

import json
import random
import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import oracle
from jobs import script
from samples import COMPRESS

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = ["a", "b", "c", "1", "01", "10", "9", "-2", "x y", "é", "zz", "k"]
MAPPERS = [
    "identity",
    "cat",
    "python lines",
    "files",
    "python text",
    "python json",
    "python uuid-json",
    "python pairs",
    "javascript text",
]
NUMERIC = {"sum", "min", "max", "mean", "histogram 10", "histogram 0.5", "add", "add floats"}
REDUCERS = [
    "none",
    "sum",
    "min",
    "max",
    "mean",
    "count",
    "distinct",
    "top",
    "top 2",
    "histogram",
    "histogram 10",
    "histogram 0.5",
    "cat",
    "digest",
    "digest",
    "add",
    "add floats",
    "javascript digest",
]
SEPARATORS = ["auto", "auto", "tab", "tab-or-space", ","]
CRASH_PYTHON = """
    import os, signal
    def crash_by_chance():
        for number in range(3):
            try:
                os.unlink({path!r} + str(number))
            except FileNotFoundError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    """
PYTHON_LINES = """
    import sys
    crash_by_chance()
    for line in sys.stdin.buffer:
        line = line.rstrip(b"\\n")
        for _ in range(times(line.decode("utf-8", "surrogateescape"))):
            sys.stdout.buffer.write(line + b"\\n")
    """
PYTHON_FUNCTION = """
    seen = 0
    def mapper({parameters}):
        global seen
        seen += 1
        if seen == {crash_at}:
            crash_by_chance()
        line = {line}
        for _ in range(times(line)):
            yield {result}
    """
LINE, PAIR = "line + '\\n'", "(line.replace('\\t', '/'), 'v')"
TIMES = """
    def times(line):
        return {"1": 2, "9": 0}.get(line[-1:], 1)
    """
JAVASCRIPT = """
    const fs = require('fs')
    let seen = 0
    exports.mapper = function* (file, line) {{
        if (++seen == {crash_at})
            for (const number of [0, 1, 2])
                try {{
                    fs.unlinkSync({path} + number)
                    process.kill(process.pid, 'SIGKILL')
                    while (true) {{}}
                }} catch (error) {{ if (error.code != 'ENOENT') throw error }}
        const times = {{'1': 2, '9': 0}}[line.slice(-1)] ?? 1
        for (let n = 0; n < times; n++) yield line + '\\n'
    }}
    """
SHELL = """\
#!/bin/sh
for n in 0 1 2; do rm {path}$n 2>/dev/null && kill -9 $$; done
{work}
"""
SUM_LINES = """
    import itertools, sys
    rows = (line.rstrip("\\n").rpartition("\\t") for line in sys.stdin)
    for key, some in itertools.groupby(rows, lambda row: row[0]):
        print(key, sum(int(row[2]) for row in some), sep="\\t")
    """
DIGEST = """
    import zlib
    def reduce(key, values):
        crash_by_chance()
        values = list(values)
        text = "\\n".join(values).encode("utf-8", "surrogateescape")
        yield key, f"{len(values)} {zlib.crc32(text)}"
    """
ADD = """
    def reduce(key, values):
        crash_by_chance()
        yield key, sum(map(int, values))
    """
JAVASCRIPT_DIGEST = """
    const zlib = require('zlib')
    const table = Array.from({length: 256}, (_, n) => {
        for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1
        return n >>> 0
    })
    const crc32 = bytes => {
        let crc = 0xffffffff
        for (const byte of bytes) crc = table[(crc ^ byte) & 0xff] ^ (crc >>> 8)
        return (crc ^ 0xffffffff) >>> 0
    }
    exports.reduce = (key, values) =>
        [[key, `${values.length} ${crc32(Buffer.from(values.join('\\n')))}`]]
    """


def _compressed(data: bytes, codec: str, members: int) -> bytes:
    """Compress data, as several members one after the other where the format has them."""
    if codec == "lzma":
        return COMPRESS[codec](data)
    size = max(1, -(-len(data) // members))
    pieces = [data[low : low + size] for low in range(0, len(data), size)] or [b""]
    return b"".join(map(COMPRESS[codec], pieces))


@dataclass(frozen=True)
class RandomJob:
    """One job, decided by its seed alone."""

    seed: int
    calm: bool = False
    """The same job without its crashes."""

    @cached_property
    def choice(self) -> dict[str, Any]:
        """Every decision of the job, by name; only those that fit each other."""
        rng = random.Random(self.seed)
        mapper = rng.choice(MAPPERS)
        reducer = rng.choice(REDUCERS)
        separator = rng.choice(SEPARATORS)
        fields = rng.choice([1, 1, 1, 2, 3])
        if separator == "tab-or-space" or mapper == "python pairs":
            fields = 1
        if mapper == "python pairs":
            separator, reducer = "auto", reducer if reducer not in NUMERIC else "count"
        sort = rng.choice([None, None, "-n", "-r", "-nr", "-k1,1nr -k2", "-k2,2n -k1,1r"])
        if sort and "-k" in sort and fields == 1:
            sort = "-k1,1n"
        values = rng.choice([[], [], ["value"], ["value -nr"]])
        if (
            sort is None
            or reducer in {"none", "count", "distinct"} | NUMERIC - {"add", "add floats"}
            or (reducer.partition(" ")[0] in {"top", "histogram"} or "k" in sort)
        ):
            values = []
        parts = 1 if reducer == "none" else rng.choice([1, 1, 2, 3, 5])
        partition = rng.choice(["hash", "hash", "range", "-k1,1"])
        combiner = self._combiner(rng, reducer, values)
        odd = self._odd_values(rng, mapper, reducer, combiner)
        return {
            "mapper": mapper,
            "reducer": reducer,
            "separator": separator,
            "key_fields": fields,
            "sort": None if reducer == "none" else sort,
            "values": values,
            "reducers": parts,
            "partition": "hash" if reducer == "none" else partition,
            "combiner": combiner,
            "odd_values": odd,
            "split_bytes": rng.choice([1, 200, 2_000, 128 << 20]),
            "stream": rng.random() < 0.5,
            "map_crashes": rng.choice([0, 0, 1, 2]),
            "reduce_crashes": rng.choice([0, 0, 0, 1]),
            "crash_at": rng.choice([1, 2, 5]),
            "files": [self._lines(rng, reducer, odd) for _ in range(rng.randint(1, 7))],
            "codecs": [rng.choice(sorted(COMPRESS)) for _ in range(7)],
            "members": [rng.choice([1, 1, 2, 5]) for _ in range(7)],
            "last_end": [rng.random() < 0.8 for _ in range(7)],
        }

    @property
    def summary(self) -> str:
        """The decisions of the job, without its lines."""
        return str({name: value for name, value in self.choice.items() if name != "files"})

    @staticmethod
    def _combiner(rng: random.Random, reducer: str, values: list[str]) -> str:
        if values:
            return ""
        if reducer == "add":
            return rng.choice(["", "sum", "python", "python lines"])
        if reducer == "add floats":
            return rng.choice(["", "sum", "python floats", "python floats"])
        if reducer == "sum":
            return rng.choice(["", "sum", "python"])
        return rng.choice(["", reducer]) if reducer in {"min", "max"} else ""

    @staticmethod
    def _odd_values(
        rng: random.Random, mapper: str, reducer: str, combiner: str
    ) -> tuple[str, ...]:
        """Values besides whole numbers and short texts, as far as mapper and reducer take them."""
        if reducer == "add" or combiner == "python":
            return ()
        if reducer in NUMERIC:
            floats = ("0.5", "0.1", "-2.25", "1000.0", "12345.678")
            real = {"sum", "mean", "histogram 0.5", "add floats"}
            of_kind = floats if reducer in real else ()
            if reducer == "add floats":
                return floats
            return of_kind + (("bad", "1 2", "0x1") if rng.random() < 0.3 else ())
        by_bytes = mapper in {"identity", "cat", "files", "python lines", "python text"}
        return ("\udcff\udcfe", "\r") if by_bytes and "javascript" not in reducer else ()

    @staticmethod
    def _lines(rng: random.Random, reducer: str, odd: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Rows of three key fields and a value."""
        few = rng.sample(FIELDS, rng.randint(1, 5))
        rows: list[tuple[str, ...]] = []
        for _ in range(rng.choice([0, 1, 5, 40])):
            value = str(rng.choice([rng.randint(-20, 20), rng.randint(-(10**20), 10**20)]))
            if reducer not in NUMERIC:
                value = rng.choice([value, rng.choice(FIELDS), "", "two words"])
            if odd and rng.random() < 0.2:
                value = rng.choice(odd)
            rows.append((rng.choice(few), rng.choice(few), rng.choice(few), value))
        return rows

    # ------------------------------------------------------------ what the job reads

    @property
    def ending(self) -> str:
        """The separator of map output, with the mapper's default applied."""
        separator = str(self.choice["separator"])
        if separator != "auto":
            return separator
        by_line = self.choice["mapper"] in {"identity", "cat", "python lines"}
        return "tab" if by_line or self.choice["key_fields"] > 1 else "tab-or-space"

    @property
    def mark(self) -> str:
        """What stands between the fields of the lines that are written."""
        return "," if self.ending == "," else "\t"

    def lines(self) -> list[list[bytes]]:
        """The lines of each file; a program is given them one by one."""
        fields = self.choice["key_fields"]
        return [
            [
                self.mark.join([*row[:fields], row[3]]).encode("utf-8", "surrogateescape")
                for row in rows
            ]
            for rows in self.choice["files"]
        ]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write inputs and scripts below a folder.

        Returns:
            The options of the job; its output is ``folder/out/``.
        """
        choice = self.choice
        self._write_inputs(folder)
        options: dict[str, Any] = {
            "inputs": [f"{folder}/in/"],
            "mapper": self._mapper(folder),
            "separator": choice["separator"],
            "key_fields": choice["key_fields"],
            "reducers": choice["reducers"],
            "split_bytes": choice["split_bytes"],
            "output": f"{folder}/out/",
            "partition": choice["partition"],
            "max_bad_records": None,
        }
        kind = choice["mapper"].split()[-1]
        if kind in {"text", "pairs", "json", "uuid-json"}:
            options["records"] = "text" if kind == "pairs" else kind
        if choice["reducer"] != "none":
            options["reducer"] = self._reducer(folder)
        if choice["sort"]:
            head = "key " if choice["values"] else ""
            options["sort"] = ", ".join([head + choice["sort"], *choice["values"]])
        if choice["combiner"]:
            options["combiner"] = self._combine(folder)
        return options

    def _write_inputs(self, folder: Path) -> None:
        choice = self.choice
        (folder / "in").mkdir(parents=True)
        for number, lines in enumerate(self.lines()):
            data = b"".join(self._record(line) + b"\n" for line in lines)
            if not choice["last_end"][number] and choice["mapper"] != "files":
                data = data.removesuffix(b"\n")
            stored = _compressed(data, choice["codecs"][number], choice["members"][number])
            (folder / "in" / f"{number} é").write_bytes(stored)
        for side in () if self.calm else ("map", "reduce"):
            for number in range(choice[f"{side}_crashes"]):
                (folder / f"{side}-crash-{number}").touch()

    def _record(self, line: bytes) -> bytes:
        kind = self.choice["mapper"]
        if kind == "python json":
            return json.dumps({"line": line.decode()}).encode()
        if kind == "python uuid-json":
            return b"%036d\t" % 7 + json.dumps({"line": line.decode()}).encode()
        return line

    # ------------------------------------------------------------ its programs

    def _mapper(self, folder: Path) -> Any:
        kind, crash = self.choice["mapper"], str(folder / "map-crash-")
        head = textwrap.dedent(CRASH_PYTHON.format(path=crash)) + textwrap.dedent(TIMES)
        if kind == "identity":
            return "identity"
        if kind == "cat":
            source = SHELL.format(path=crash, work="exec cat")
            return {
                "language": "binary",
                "script": script(folder, "map.sh", source),
                "feed": "lines",
            }
        if kind == "files":
            work = 'while read -r name; do cat "$name"; done'
            source = SHELL.format(path=crash, work=work)
            return {
                "language": "binary",
                "script": script(folder, "map.sh", source),
                "feed": "files",
            }
        if kind == "python lines":
            source = head + textwrap.dedent(PYTHON_LINES)
            return {"script": script(folder, "map.py", source), "feed": "lines"}
        if kind == "javascript text":
            source = JAVASCRIPT.format(path=json.dumps(crash), crash_at=self.choice["crash_at"])
            return {
                "language": "javascript",
                "script": script(folder, "map.js", source),
                "feed": "records",
            }
        parameters = {"python uuid-json": "uuid, file, js"}.get(
            kind, "file, js" if kind == "python json" else "file, line"
        )
        source = head + textwrap.dedent(
            PYTHON_FUNCTION.format(
                parameters=parameters,
                crash_at=self.choice["crash_at"],
                line="js['line']" if "json" in kind else "line",
                result=PAIR if kind == "python pairs" else LINE,
            )
        )
        return {"script": script(folder, "map.py", source)}

    def _reducer(self, folder: Path) -> Any:
        word = self.choice["reducer"]
        head = textwrap.dedent(CRASH_PYTHON.format(path=str(folder / "reduce-crash-")))
        if word == "cat":
            source = SHELL.format(path=folder / "reduce-crash-", work="exec cat")
            return {
                "language": "binary",
                "script": script(folder, "reduce.sh", source),
                "feed": "lines",
            }
        if word == "javascript digest":
            source = script(folder, "reduce.js", JAVASCRIPT_DIGEST)
            return {"language": "javascript", "script": source, "feed": "records"}
        if word in {"digest", "add", "add floats"}:
            text = {"digest": DIGEST, "add": ADD, "add floats": ADD.replace("int", "float")}[word]
            source = head + textwrap.dedent(text)
            return {"script": script(folder, "reduce.py", source), "stream": self.choice["stream"]}
        return word

    def _combine(self, folder: Path) -> Any:
        kind = self.choice["combiner"]
        if kind == "python lines":
            return {"script": script(folder, "combine.py", SUM_LINES), "feed": "lines"}
        if kind in {"python", "python floats"}:
            number = "float" if "floats" in kind else "int"
            source = f"def combine(key, values):\n    yield key, sum(map({number}, values))\n"
            return {"script": script(folder, "combine.py", source)}
        return kind

    # ------------------------------------------------------------ what it should give

    def map_output(self) -> list[bytes]:
        """The lines that the mapper writes, in the order of the inputs, without their ends."""
        kind = self.choice["mapper"]
        lines = [line for some in self.lines() for line in some]
        if kind not in {"identity", "cat", "files"}:
            lines = [line for line in lines for _ in range({b"1": 2, b"9": 0}.get(line[-1:], 1))]
        if kind == "python pairs":
            return [line.replace(b"\t", b"/") + b"\tv" for line in lines]
        return lines

    def pairs(self) -> list[oracle.Pair]:
        """Keys and values as they are shuffled."""
        lines, fields = self.map_output(), self.choice["key_fields"]
        if self.choice["mapper"] == "python pairs":
            return [(line[:-2], b"v") for line in lines]
        return [oracle.cut_line(line, self.ending, fields) for line in lines]

    @property
    def grouping_matters(self) -> bool:
        """Whether the result depends on which values were combined together: floats are added.

        Then only an undisturbed run says what a disturbed one has to give.
        """
        return bool(self.choice["reducer"] == "add floats")

    def check(self, parts: list[bytes]) -> None:
        """Compare the published parts with the expected result.

        Raises:
            AssertionError: They differ.
        """
        choice = self.choice
        if choice["reducer"] == "none":
            assert parts == [b"".join(line + b"\n" for line in self.map_output())]
            return
        separator = self.mark.encode()
        values = [
            oracle.SortTerm(numeric="n" in word[5:], reverse="r" in word[5:])
            for word in choice["values"]
        ]
        ordered = oracle.sorted_pairs(
            self.pairs(), oracle.read_sort(choice["sort"]), values, separator
        )
        word = choice["reducer"].removeprefix("javascript ")
        groups = [
            (key, b"".join(oracle.reduced(word, key, some)))
            for key, some in oracle.grouped(ordered)
        ]
        if choice["partition"] == "range":
            assert b"".join(parts) == b"".join(text for _, text in groups)
            return
        expected = [b""] * choice["reducers"]
        for key, text in groups:
            decides = key if choice["partition"] == "hash" else key.split(separator)[0]
            expected[oracle.partition_number(decides, choice["reducers"])] += text
        assert parts == expected
