"""The command ``submit``: a job as a group of TaskCluster tasks."""

from __future__ import annotations

import datetime as dt
import os
from typing import TYPE_CHECKING, Any

import click

from ray_mr.cli.options import JobCommand, add_job_options, gather_inputs
from ray_mr.cli.screen import print_message, write_result
from ray_mr.errors import JobError
from ray_mr.jobs.job import Job
from ray_mr.jobs.job_checks import NOT_READ_BACK
from ray_mr.system import strict_json
from ray_mr.units import parse_seconds

if TYPE_CHECKING:
    from ray_mr.taskcluster.graph import GraphSettings

IMAGE_JOB = "/etc/analysis-tools.yml"
MAX_DEADLINE_S = 5 * 24 * 3600
_SECRET_NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "TASKCLUSTER_ACCESS_TOKEN",
    "TASKCLUSTER_CERTIFICATE",
)


@click.command(cls=JobCommand)
@click.argument("job_file", metavar="JOB.yml", type=click.Path())
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option("--task-queue", required=True, metavar="PROVISIONER/WORKER-TYPE")
@click.option("--owner", required=True, metavar="MAIL", help="Gets mail when the job ends.")
@click.option("--image", help="Docker image with ray-mr and the job; for payload docker.")
@click.option("--job-path", default=IMAGE_JOB, show_default=True, help="JOB.yml for the tasks.")
@click.option(
    "--payload",
    type=click.Choice(["docker", "generic-worker"]),
    default="docker",
    show_default=True,
)
@click.option("--key-secret", metavar="SECRET", help="Secret with the key of CREDENTIALS.")
@click.option("--set-env", multiple=True, metavar="NAME=VALUE", help="For tasks; anyone reads it.")
@click.option("--scope", multiple=True, help="A scope of the tasks.")
@click.option("--index", metavar="NAMESPACE", help="Index the result: index.NAMESPACE.")
@click.option("--priority", default="lowest", show_default=True)
@click.option("--scheduler-id", default="-", show_default=True)
@click.option("--source", default="https://example.invalid/ray-mr", help="URL of the job's source.")
@click.option("--label", default="", help="Another label posts the same job again.")
@click.option("--max-run-time", default="6h", show_default=True)
@click.option("--task-deadline", default="24h", show_default=True, help="At most 5 days.")
@click.option("--keys-from", metavar="FILE", help="Read more inputs from a manifest.")
@click.option("--dry-run", is_flag=True, help="Print the definitions as JSON; post nothing.")
@add_job_options
def submit(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Post a job as TaskCluster tasks: maps, and the reduces that depend on them.

    Every key is in exactly one map task, of about --split-bytes. The same job over the same
    objects has the same ids: what is posted already is left alone. The sealed CREDENTIALS of the
    environment go along.

    \b
    Examples:
      ray-mr submit job.yml --task-queue proj/worker --owner me@example.com --image me/os-count \\
        --key-secret project/ray-mr-key --dry-run
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    fields = {name: options.pop(name) for name in list(options) if name in Job.model_fields}
    job = Job.from_file(job_file, inputs=gather_inputs(inputs, keys_from), overrides=fields)
    settings = _settings(job, job_file, options)
    from ray_mr.driver.run import plan
    from ray_mr.taskcluster.graph import group_keys, make_graph, post_graph

    made = plan(job)
    if made.refused:
        raise made.refused[0][1]
    objects = [item.object for split in made.splits for item in split.inputs]
    graph = make_graph(
        group_keys(objects, job.split_bytes),
        _job_digest(job, made),
        settings,
        dt.datetime.now(dt.UTC),
    )
    if dry_run:
        write_result(strict_json.dumps(graph.facts(), indent=1))
        return
    for scope in graph.scopes:
        print_message(f"needs scope {scope}")
    new = post_graph(graph)
    print_message(f"{new:,} of {len(graph.tasks):,} tasks posted, the rest was there")
    write_result(
        f"{os.environ.get('TASKCLUSTER_ROOT_URL', '').rstrip('/')}/tasks/groups/{graph.group}"
    )


def _job_digest(job: Job, made: Any) -> str:
    programs = [
        each.digest if hasattr(each, "digest") else str(each)
        for each in (made.mapper, made.combiner, made.reducer)
    ]
    portable = job.portable()
    try:
        text = portable.model_dump_json(exclude={"inputs"})
    except ValueError:  # a name that is not UTF-8
        text = strict_json.dumps(portable.model_dump(mode="json", exclude={"inputs"}))
    return strict_json.dumps([text, programs])


def _settings(job: Job, job_file: str, options: dict[str, Any]) -> GraphSettings:
    from ray_mr.credentials import detect_format
    from ray_mr.stores import access
    from ray_mr.taskcluster.graph import GraphSettings

    if job.partition == "range" and job.reducers > 1:
        raise JobError(
            "partition: range is for one run: a map task knows its own inputs only",
            "use `partition: hash`, or one reducer",
        )
    if job.combiner is not None and job.tabs_in_keys:
        raise JobError(f"combiner: does not go {NOT_READ_BACK}", "leave the combiner out")
    if options["payload"] == "docker" and not options["image"]:
        raise click.UsageError("--image is needed for payload docker")
    env, scopes = _env(options["set_env"]), list(options["scope"])
    if sealed := access.get_envelope():
        detect_format(sealed)
        env[access.ENVELOPE] = sealed
    if name := options["key_secret"]:
        env[access.KEY_SECRET] = name
        scopes.append(f"secrets:get:{name}")
    deadline = _whole_seconds(options["task_deadline"], "--task-deadline")
    if deadline > MAX_DEADLINE_S:
        raise click.BadParameter("at most 5 days", param_hint="--task-deadline")
    return GraphSettings(
        task_queue=options["task_queue"],
        owner=options["owner"],
        name=job.name or job_file,
        source=options["source"],
        job_path=options["job_path"],
        reducers=0 if job.reducer is None else job.reducers,
        payload=options["payload"],
        image=options["image"] or "",
        env=env,
        scopes=tuple(scopes),
        priority=options["priority"],
        scheduler=options["scheduler_id"],
        index=options["index"] or "",
        notify=(options["owner"],),
        label=options["label"],
        max_run_s=_whole_seconds(options["max_run_time"], "--max-run-time"),
        deadline_s=deadline,
    )


def _env(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{name}: write NAME=VALUE", param_hint="--set-env")
        if name in _SECRET_NAMES:
            raise JobError(
                f"{name} must not go into a task's definition, which anyone can read",
                "seal it: `ray-mr credentials seal`, and set CREDENTIALS",
            )
        found[name] = value
    return found


def _whole_seconds(text: str, option: str) -> int:
    try:
        return int(parse_seconds(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
