"""The commands ``credentials keygen | federate | seal | open``.

Secrets come from stdin, a file or STS, and go to stdout: never by an argument, which others see.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

import click

from ray_mr.cli.screen import print_message, write_result
from ray_mr.errors import CredentialsError, JobError
from ray_mr.units import parse_seconds

if TYPE_CHECKING:
    from ray_mr.credentials import EnvelopeFormat

_KINDS = {
    "new": "a new envelope: authenticated",
    "2014": "an envelope of 2014: nothing authenticates it",
}


@click.group()
def credentials() -> None:
    """Keys, and credentials sealed for a task's CREDENTIALS.

    \b
    ray-mr credentials keygen worker                       worker.key.pem, worker.pub.pem
    ray-mr credentials federate job.yml |
      ray-mr credentials seal --key worker.pub.pem         the text for CREDENTIALS
    ray-mr credentials open --key worker.key.pem           what CREDENTIALS holds, masked
    """  # noqa: D301 - click's mark for lines that are not to be wrapped


@credentials.command()
@click.argument("name", default="ray-mr")
@click.option("--bits", type=click.IntRange(2048, 8192), default=3072, show_default=True)
def keygen(*, name: str, bits: int) -> None:
    """Make a key: NAME.key.pem, which opens, and NAME.pub.pem, which seals.

    \b
    Example:
      ray-mr credentials keygen worker
    """  # noqa: D301 - as above
    from ray_mr.credentials import generate_key

    private, public = Path(f"{name}.key.pem"), Path(f"{name}.pub.pem")
    for path in (private, public):
        if path.exists():
            raise JobError(f"{path} is there already", "give another NAME")
    texts = generate_key(bits)
    for path, text, mode in ((private, texts[0], 0o600), (public, texts[1], 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(text)
        except OSError as error:
            raise JobError(f"{path} cannot be written: {error.strerror}") from None
    print_message(f"{private} opens envelopes: keep it secret; {public} seals them")


@credentials.command()
@click.argument("places", metavar="JOB.yml|s3://PATTERN...", nargs=-1, required=True)
@click.option("--duration", default="12h", show_default=True, help="15min to 36h.")
def federate(*, places: tuple[str, ...], duration: str) -> None:
    """Get credentials from STS that can read a job's inputs, and nothing else.

    They may GetObject and ListBucket below the inputs' fixed prefixes.  The credentials that
    boto3 finds ask for them, and have to be an IAM user's.  Prints JSON, secrets in clear: for
    `credentials seal`.

    \b
    Examples:
      ray-mr credentials federate job.yml | ray-mr credentials seal --key worker.pub.pem
      ray-mr credentials federate 's3://pings/2014/**' --duration 90min
    """  # noqa: D301 - as above
    from ray_mr.aws.sts import federate as ask

    if sys.stdout.isatty():
        raise CredentialsError(
            "secrets are not shown on a terminal", "pipe them into `ray-mr credentials seal`"
        )
    found = ask(_patterns(places), seconds=int(_seconds(duration)))
    write_result(found.to_json(show_secrets=True))


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--duration") from None


def _patterns(places: tuple[str, ...]) -> list[str]:
    from ray_mr.jobs.job import Job

    found: list[str] = []
    for place in places:
        inputs = [place] if "://" in place else list(Job.from_file(place).inputs)
        found += [each for each in inputs if isinstance(each, str) and each.startswith("s3://")]
    if not found:
        raise JobError(f"no s3:// input in {', '.join(places)}", "give patterns: s3://bucket/**")
    return found


@credentials.command()
@click.argument("file", type=click.File(), default="-")
@click.option("--key", metavar="PEM", help="Public or private key.  [default: RAY_MR_KEY_FILE]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["new", "2014"]),
    default="new",
    show_default=True,
    help="2014: for images of that time; it holds no expiry.",
)
def seal(*, file: TextIO, key: str | None, form: str) -> None:
    """Seal credentials, JSON on stdin or in FILE, for CREDENTIALS of a task.

    Takes what `credentials federate`, `aws sts` and a credential_process print:
    accessKeyId, secretAccessKey, sessionToken, region, expiry.
    """
    from ray_mr.credentials import parse_credentials
    from ray_mr.credentials import seal as make
    from ray_mr.stores import access

    text = _text(file)
    found = parse_credentials(text, file.name)
    if key:
        pem, origin = access.read_key(key), key
    else:
        fetched = access.find_key()
        pem, origin = fetched.pem, fetched.origin
    envelope = make(found, pem, origin, form=cast("EnvelopeFormat", form))
    if form == "2014" and found.expiry is not None:
        print_message("note: an envelope of 2014 does not hold the expiry")
    write_result(envelope)


@credentials.command("open")
@click.argument("file", type=click.File(), required=False)
@click.option("--key", metavar="PEM", help="Private key.  [default: RAY_MR_KEY_FILE or secret]")
@click.option("--show-secrets", is_flag=True, help="Print secrets in clear.")
def open_(*, file: TextIO | None, key: str | None, show_secrets: bool) -> None:
    """Show what an envelope holds: that of CREDENTIALS, of FILE, or of stdin (-).

    Says on stderr which kind it is; opens that of 2014 too, whatever tasks are allowed.
    """
    from dataclasses import replace

    from ray_mr.credentials import detect_format, open_envelope
    from ray_mr.stores import access

    text = os.environ.get(access.ENVELOPE, "") if file is None else _text(file)
    if not text.strip():
        if file is not None or sys.stdin.isatty():
            raise CredentialsError("there is no envelope", "give a FILE, or set CREDENTIALS")
        text = _text(sys.stdin)
    kind = detect_format(text)
    found = open_envelope(text, replace(access.find_key(key), allow_2014=True))
    print_message(_KINDS[kind])
    write_result(found.to_json(show_secrets=show_secrets))


def _text(file: TextIO) -> str:
    try:
        return file.read()
    except (OSError, UnicodeDecodeError):
        raise CredentialsError(f"{file.name}: cannot be read as text") from None
