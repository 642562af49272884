"""The commands ``schema`` and ``completion``: what editors and shells are told about ray-mr."""

from __future__ import annotations

import json
from typing import Any

import click

from ray_mr.cli.screen import write_result
from ray_mr.jobs.job import Job
from ray_mr.jobs.normalize import THREE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALAR = ["string", "number", "boolean"]
"""Where text is asked for, a job file's ``1.10`` and ``yes`` are taken as they are written."""

DROPPED = {"title", "ge", "gt"}
"""What pydantic adds that says nothing to an editor."""


def job_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, in both forms."""
    made = Job.model_json_schema()
    definitions = {name: _as_written(each) for name, each in made.pop("$defs").items()}
    script = definitions["Script"]
    script["required"] = ["script"]
    long = _as_written(made)
    # The command line can give the inputs.
    long |= {"title": "job", "required": ["mapper"]}
    short = {
        "title": "job of 2014",
        "type": "object",
        "properties": {name: script["properties"][name] for name in THREE},
        "required": ["language", "script"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "ray_mr job file",
        "anyOf": [long, short],
        "$defs": definitions,
    }


def _as_written(node: Any) -> Any:
    """The schema of values as a YAML file has them, which is looser than that of a job's fields."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node == {"type": "null"}:
        return {"enum": ["none", None]}
    kept = {
        key: {name: _as_written(each) for name, each in value.items()}
        if key == "properties"
        else _as_written(value)
        for key, value in node.items()
        if key not in DROPPED and (key, value) != ("default", None)
    }
    if kept.get("type") == "string" and "enum" not in kept:
        kept["type"] = SCALAR
    return kept


@click.command()
def schema() -> None:
    """Print the JSON Schema of job files.

    Editors that know YAML check and complete a job file by it, told so in its first line.

    \b
    Example:
      ray-mr schema > job.schema.json
      # yaml-language-server: $schema=job.schema.json     (first line of job.yml)
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    write_result(json.dumps(job_schema(), indent=2))
