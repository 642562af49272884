"""The command ``schema``: print the JSON Schema of job files, for editors.

The schema is made from the fields of ``Job`` and describes both forms of a job file: the full form,
and the three keys of 2014.
"""

from __future__ import annotations

import json
from typing import Any

import click

from ray_mr.cli.screen import write_result
from ray_mr.jobs.job import Job
from ray_mr.jobs.normalize import SHORT_FORM_KEYS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALAR = ["string", "number", "boolean"]
"""Types accepted for a text: ``1.10`` and ``yes`` in a job file are read as they are written."""
DROPPED = {"title", "ge", "gt"}
"""Keys of pydantic's schema that an editor does not use."""


def make_job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file in either form."""
    full = Job.model_json_schema()
    definitions = {name: _loosen(each) for name, each in full.pop("$defs").items()}
    script = definitions["Script"]
    script["required"] = ["script"]
    # The inputs are not required: the command line can have them.
    full = _loosen(full) | {"title": "job", "required": ["mapper"]}
    short = {
        "title": "job of 2014",
        "type": "object",
        "properties": {name: script["properties"][name] for name in SHORT_FORM_KEYS},
        "required": ["language", "script"],
        "additionalProperties": False,
    }
    return {
        "$schema": DIALECT,
        "title": "ray_mr job file",
        "anyOf": [full, short],
        "$defs": definitions,
    }


def _loosen(node: Any) -> Any:
    """Turn a schema of a job's fields into that of YAML values, which may be less strict."""
    if isinstance(node, list):
        return [_loosen(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node == {"type": "null"}:
        return {"enum": ["none", None]}
    schema = {
        key: {name: _loosen(each) for name, each in value.items()}
        if key == "properties"
        else _loosen(value)
        for key, value in node.items()
        if key not in DROPPED and (key, value) != ("default", None)
    }
    if schema.get("type") == "string" and "enum" not in schema:
        schema["type"] = SCALAR
    return schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of job files.

    An editor with YAML support checks and completes a job file whose first line names the schema.

    \b
    Example:
      ray-mr schema > job.schema.json
      # yaml-language-server: $schema=job.schema.json     (first line of job.yml)
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    write_result(json.dumps(make_job_schema(), indent=2))
