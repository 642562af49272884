"""The command ``submit``: submit a job to TaskCluster as a group of tasks."""

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
@click.option(
    "--task-queue",
    required=True,
    metavar="PROVISIONER/WORKER-TYPE",
    help="Task queue of all tasks.",
)
@click.option(
    "--owner",
    required=True,
    metavar="EMAIL",
    help="Owner of the tasks, who gets mail when the job ends.",
)
@click.option("--image", help="Docker image with ray-mr and the job (payload docker).")
@click.option(
    "--job-path", default=IMAGE_JOB, show_default=True, help="Path of the job file in the tasks."
)
@click.option(
    "--payload",
    type=click.Choice(["docker", "generic-worker"]),
    default="docker",
    show_default=True,
    help="Format of the tasks' payload.",
)
@click.option(
    "--key-secret", metavar="SECRET", help="TaskCluster secret with the key that opens CREDENTIALS."
)
@click.option(
    "--set-env",
    multiple=True,
    metavar="NAME=VALUE",
    help="Environment variable of the tasks; public.",
)
@click.option("--scope", multiple=True, help="Scope of the tasks; may be repeated.")
@click.option("--index", metavar="NAMESPACE", help="Index the result as index.NAMESPACE.")
@click.option("--priority", default="lowest", show_default=True, help="Priority of the tasks.")
@click.option("--scheduler-id", default="-", show_default=True, help="Scheduler of the tasks.")
@click.option(
    "--source", default="https://example.invalid/ray-mr", help="URL of the job's source code."
)
@click.option(
    "--label", default="", help="Any text; submits the same job again under new task ids."
)
@click.option("--max-run-time", default="6h", show_default=True, help="Time limit of each task.")
@click.option(
    "--task-deadline",
    default="24h",
    show_default=True,
    help="Time limit of the whole job, at most 5 days.",
)
@click.option(
    "--keys-from",
    metavar="FILE",
    help="Read more inputs from a manifest: a file, an s3:// URI, or - for stdin.",
)
@click.option("--dry-run", is_flag=True, help="Print the task definitions as JSON, submit nothing.")
@add_job_options
def submit(
    *,
    job_file: str,
    inputs: tuple[str, ...],
    keys_from: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Submit a job to TaskCluster as map and reduce tasks.

    Each input is in exactly one map task, of about --split-bytes; reduce tasks depend on all map
    tasks.  The same job over the same objects has the same task ids, so that tasks that were
    submitted before are not submitted again.  The sealed CREDENTIALS of the environment are passed
    to the tasks.

    \b
    Examples:
      ray-mr submit job.yml --task-queue proj/worker --owner me@example.com --image me/os-count \\
        --key-secret project/ray-mr-key --dry-run
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    fields = {name: options.pop(name) for name in list(options) if name in Job.model_fields}
    job = Job.from_file(job_file, inputs=gather_inputs(inputs, keys_from), overrides=fields)
    settings = _make_settings(job, job_file, options)
    from ray_mr.driver.run import plan
    from ray_mr.taskcluster.graph import group_keys, make_graph, post_graph

    job_plan = plan(job)
    if job_plan.refused:
        raise job_plan.refused[0][1]
    objects = [item.object for split in job_plan.splits for item in split.inputs]
    graph = make_graph(
        group_keys(objects, job.split_bytes),
        _make_job_digest(job, job_plan),
        settings,
        dt.datetime.now(dt.UTC),
    )
    if dry_run:
        write_result(strict_json.dumps(graph.facts(), indent=1))
        return
    for scope in graph.scopes:
        print_message(f"needs scope {scope}")
    posted = post_graph(graph)
    print_message(f"submitted {posted:,} of {len(graph.tasks):,} tasks; the others exist already")
    write_result(
        f"{os.environ.get('TASKCLUSTER_ROOT_URL', '').rstrip('/')}/tasks/groups/{graph.group}"
    )


def _make_job_digest(job: Job, job_plan: Any) -> str:
    programs = [
        each.digest if hasattr(each, "digest") else str(each)
        for each in (job_plan.mapper, job_plan.combiner, job_plan.reducer)
    ]
    portable = job.without_functions()
    try:
        text = portable.model_dump_json(exclude={"inputs"})
    except ValueError:  # a name that is not UTF-8
        text = strict_json.dumps(portable.model_dump(mode="json", exclude={"inputs"}))
    return strict_json.dumps([text, programs])


def _make_settings(job: Job, job_file: str, options: dict[str, Any]) -> GraphSettings:
    from ray_mr.credentials import detect_format
    from ray_mr.stores import access
    from ray_mr.taskcluster.graph import GraphSettings

    if job.partition == "range" and job.reducers > 1:
        raise JobError(
            "partition: range works within one run only: a map task knows only its own inputs",
            "use `partition: hash`, or one reducer",
        )
    if job.combiner is not None and job.tabs_in_keys:
        raise JobError(f"combiner: does not go {NOT_READ_BACK}", "leave the combiner out")
    if options["payload"] == "docker" and not options["image"]:
        raise click.UsageError("payload docker requires --image")
    env, scopes = _parse_env(options["set_env"]), list(options["scope"])
    if sealed := access.get_envelope():
        detect_format(sealed)
        env[access.ENVELOPE] = sealed
    if name := options["key_secret"]:
        env[access.KEY_SECRET] = name
        scopes.append(f"secrets:get:{name}")
    deadline = _parse_whole_seconds(options["task_deadline"], "--task-deadline")
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
        max_run_s=_parse_whole_seconds(options["max_run_time"], "--max-run-time"),
        deadline_s=deadline,
    )


def _parse_env(words: tuple[str, ...]) -> dict[str, str]:
    env = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{name}: write NAME=VALUE", param_hint="--set-env")
        if name in _SECRET_NAMES:
            raise JobError(
                f"{name} must not go into a task's definition, which anyone can read",
                "seal it: `ray-mr credentials seal`, and set CREDENTIALS",
            )
        env[name] = value
    return env


def _parse_whole_seconds(text: str, option: str) -> int:
    try:
        return int(parse_seconds(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
