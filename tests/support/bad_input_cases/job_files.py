"""Job files, command lines and scripts with mistakes in them."""

from __future__ import annotations

from bad_input import Case

SUBJECT = "Job files, command lines and scripts"
RUN = "ray-mr run job.yml --engine local"
MAP = "ray-mr map in.txt --engine local"
MAPPER = "def mapper(file, line):\n    return line + '\\n'\n"
JOB = "inputs: [in.txt]\nrecords: text\nmapper: {script: mapper.py}\n"
GOOD = {"mapper.py": MAPPER, "in.txt": "a 1\n"}


def wrong(name: str, job: str | bytes, *says: str, shown: str | None = None) -> Case:
    """A job file that is refused before anything runs."""
    if shown is None:
        shown = job if isinstance(job, str) else ""
    shown = "\n".join(f"job.yml: {line}".rstrip() for line in shown.splitlines())
    return Case(name, RUN, 2, says, files=GOOD | {"job.yml": job}, shown=shown)


def added(name: str, line: str, *says: str) -> Case:
    """A job file that is good but for one line more."""
    return wrong(name, JOB + line + "\n", *says, shown=line)


def three_key(name: str, job: str, *says: str) -> Case:
    """The same with a job file of three keys."""
    shown = "\n".join(f"analysis-tools.yml: {line}" for line in job.splitlines())
    return Case(name, MAP, 2, says, files=GOOD | {"analysis-tools.yml": job}, shown=shown)


CASES = [
    Case("There is no job file", RUN, 2, ("job.yml: no such job file",)),
    Case(
        "There is no job file, and none is named",
        "ray-mr map in.txt",
        2,
        ("neither analysis-tools.yml nor /etc/analysis-tools.yml", "--job"),
    ),
    Case(
        "The job file is a folder",
        "ray-mr run in/ --engine local",
        2,
        ("in/: a folder, not a job file", "in/job.yml"),
        files={"in/x": ""},
    ),
    wrong("The job file is empty", "", "job.yml: the file is empty"),
    wrong("The job file is no text", b"\xff\xfe\x00", "not UTF-8 text, at byte 0"),
    wrong("The job file is no YAML", "inputs: [a, b\nmapper: x\n", "job.yml:2: not valid YAML"),
    Case(
        "A script in place of the job file",
        "ray-mr run mapper.py --engine local",
        2,
        ("mapper.py:2: not valid YAML", "name the job file"),
        files=GOOD | {"mapper.py": "import sys\n" + MAPPER},
    ),
    wrong("Tabs in YAML", "mapper:\n\tscript: x\n", "job.yml:2: not valid YAML"),
    wrong("The job file is a list", "- inputs\n", "job.yml:1: must be `key: value` lines"),
    wrong("A key twice", JOB + "records: json\n", "job.yml:4: `records` is repeated"),
    wrong("YAML that refers to itself", "inputs: &a [*a]\n", "refers to itself"),
    added(
        "An unknown key",
        "reducerz: sum",
        "job.yml:4: reducerz: unknown key; did you mean `reducer`?",
    ),
    added(
        "An unknown key of a program",
        "reducer: {scrip: x}",
        "job.yml:4: reducer.scrip: unknown key; did you mean `script`?",
    ),
    added(
        "A key of a program that is not below it",
        "feed: lines",
        "job.yml:4: feed: unknown key; it belongs below `mapper` or `reducer`",
    ),
    added(
        "A key of the job that is below a program",
        "reducer: {script: r.py, reducers: 4}",
        "job.yml:4: reducer.reducers: unknown key; it belongs beside `reducer`, not below it",
    ),
    added("An unknown word", "reducer: summ", "job.yml:4: reducer: 'summ' is none of sum"),
    added(
        "A word where a number belongs",
        "reducers: many",
        "job.yml:4: reducers: must be a whole number, not 'many'",
    ),
    added("A number out of range", "reducers: 0", "reducers: must be at least 1"),
    added("An output that has no name", "output: ''", "job.yml:4: output: must not be empty"),
    added("A size that is none", "split_bytes: 12 parsecs", "job.yml:4: split_bytes: "),
    added("A time that is none", "stall_timeout: soon", "job.yml:4: stall_timeout: "),
    added("A key without a value", "combiner: {}", "job.yml:4: combiner"),
    added("A combiner without a reducer", "combiner: sum", "combiner: needs a reducer"),
    wrong(
        "Inputs that are no list",
        "inputs: in.txt\nrecords: text\nmapper: {script: mapper.py}\n",
        "inputs: must be a list",
    ),
    wrong("No inputs", "records: text\nmapper: {script: mapper.py}\n", "there is no input"),
    wrong("No mapper", "inputs: [in.txt]\n", "mapper: is missing"),
    wrong(
        "A mapper without a script",
        "inputs: [in.txt]\nrecords: text\nmapper: {language: python}\n",
        "mapper.script: is missing",
    ),
    wrong(
        "It is not said what a record is",
        "inputs: [in.txt]\nmapper: {script: mapper.py}\n",
        "records: is missing",
        "uuid-json",
    ),
    wrong(
        "An unknown language",
        "inputs: [in.txt]\nmapper: {language: pyhton, script: mapper.py}\n",
        "mapper.language: 'pyhton' is none of",
        "did you mean `python`?",
    ),
    three_key(
        "An unknown language in the job file of 2014",
        "language: ruby\nscript: mapper.rb\n",
        "language: 'ruby' is none of",
    ),
    three_key(
        "The job file of 2014 with other options",
        "language: python\nscript: mapper.py\nreducers: 2\n",
        "does not go with the three-key form",
    ),
    added("A sort that is none", "reducer: sum\nsort: -k1.3", "sort: '-k1.3' is not understood"),
    added("A sort without a reducer", "sort: key -n", "sort: needs a reducer"),
    added("Too few fields", "reducer: sum\nkey_fields: 0", "key_fields: must be at least 1"),
    added("A sort by no field of the key", "reducer: sum\nsort: -k2", "-k2 is of the value"),
    added(
        "A partition that is none",
        "reducer: sum\npartition: -k1,x",
        "partition: '-k1,x' is not understood: a partition is",
    ),
    added(
        "A partition by what is not in the key",
        "reducer: sum\npartition: -k2",
        "partition: -k2 is not in the key",
    ),
    added("A separator that is none", "separator: ab", "separator: must be auto, tab"),
    added("No values at the top", "reducer: top 0", "'top 0' is not a number of values"),
    added("Bins without a width", "reducer: histogram 0", "'histogram 0' is not a bin width"),
    Case(
        "The interpreter of scripts is missing",
        RUN,
        6,
        ("python: /no/python: there is no interpreter", "on every machine"),
        files=GOOD | {"job.yml": JOB + "python: /no/python\n"},
        shown="job.yml: python: /no/python",
    ),
    wrong(
        "The script is missing",
        "inputs: [in.txt]\nrecords: text\nmapper: {script: maper.py}\n",
        "/home/me/job/maper.py: no such script",
    ),
    wrong(
        "The script is a folder",
        "inputs: [in.txt]\nrecords: text\nmapper: {script: .}\n",
        "not a file",
    ),
    wrong(
        "The script is not executable",
        "inputs: [in.txt]\nmapper: {language: binary, script: ./mapper.py}\n",
        "not executable",
        "chmod +x",
    ),
    wrong(
        "The program is not on the PATH",
        "inputs: [in.txt]\nmapper: {language: binary, script: gawwk}\n",
        "gawwk: no such script, and no such program on PATH",
    ),
    wrong(
        "An input of an unknown scheme",
        "inputs: ['gs://bucket/x']\nmapper: {language: binary, script: cat}\n",
        "there is no store for gs://",
    ),
    wrong(
        "An input without a bucket",
        "inputs: ['s3://*/x']\nmapper: {language: binary, script: cat}\n",
        "names no bucket",
    ),
    Case(
        "An unknown option",
        "ray-mr run job.yml --reducer-s 4",
        2,
        ("No such option", "--reducers"),
        files=GOOD | {"job.yml": JOB},
    ),
    Case(
        "An option that is wrong",
        f"{RUN} --decompress gzip",
        2,
        ("--decompress: 'gzip' is none of", "did you mean `gz`?"),
        files=GOOD | {"job.yml": JOB},
    ),
    Case(
        "An unknown engine",
        "ray-mr run job.yml --engine spark",
        2,
        ("'spark' is not one of",),
        files=GOOD | {"job.yml": JOB},
    ),
    Case("An unknown command", "ray-mr rum job.yml", 2, ("no command 'rum'; did you mean",)),
    Case(
        "No inputs are named",
        "ray-mr map --engine local",
        2,
        ("there is nothing to map",),
        files={"analysis-tools.yml": "language: binary\nscript: cat\n"},
    ),
    Case(
        "The list of inputs is empty",
        "ray-mr map --keys-from keys --engine local",
        2,
        ("no inputs in keys",),
        files={"analysis-tools.yml": "language: binary\nscript: cat\n", "keys": "\n \n"},
    ),
    Case(
        "The list of inputs is not there",
        "ray-mr map --keys-from keys --engine local",
        2,
        ("--keys-from keys: no such file", "stdin"),
        files={"analysis-tools.yml": "language: binary\nscript: cat\n"},
    ),
]
