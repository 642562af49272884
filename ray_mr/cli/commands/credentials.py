"""The commands ``credentials keygen | federate | seal | open``.

Secrets are read from stdin, a file or STS and written to stdout.  They are never arguments, which
other users of the machine can see.
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

_FORMATS = {
    "new": "envelope of the present format: authenticated",
    "2014": "envelope of 2014: not authenticated",
}


@click.group()
def credentials() -> None:
    """Create keys; seal and open the credentials of tasks.

    A task gets its S3 credentials in the environment variable CREDENTIALS, sealed with a public
    key.  Only tasks that have the private key can open them.

    \b
    Examples:
      ray-mr credentials keygen worker                    create worker.key.pem, worker.pub.pem
      ray-mr credentials federate job.yml |
        ray-mr credentials seal --key worker.pub.pem      print the value of CREDENTIALS
      ray-mr credentials open --key worker.key.pem        show CREDENTIALS, secrets masked
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped


@credentials.command()
@click.argument("name", default="ray-mr")
@click.option(
    "--bits",
    type=click.IntRange(2048, 8192),
    default=3072,
    show_default=True,
    help="Length of the RSA key.",
)
def keygen(*, name: str, bits: int) -> None:
    """Create a key pair to seal and open credentials.

    NAME.pub.pem is the public key, which seals; NAME.key.pem is the private key, which opens.

    \b
    Example:
      ray-mr credentials keygen worker
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from ray_mr.credentials import generate_key

    private, public = Path(f"{name}.key.pem"), Path(f"{name}.pub.pem")
    for path in (private, public):
        if path.exists():
            raise JobError(f"{path} already exists", "give another NAME")
    texts = generate_key(bits)
    for path, text, mode in ((private, texts[0], 0o600), (public, texts[1], 0o644)):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no path
                file.write(text)
        except OSError as error:
            raise JobError(f"{path} cannot be written: {error.strerror}") from None
    print_message(
        f"created {private}, which opens envelopes (keep it secret), and {public}, which seals them"
    )


@credentials.command()
@click.argument("places", metavar="JOB.yml|s3://PATTERN...", nargs=-1, required=True)
@click.option(
    "--duration",
    default="12h",
    show_default=True,
    help="Lifetime of the credentials, 15min to 36h.",
)
def federate(*, places: tuple[str, ...], duration: str) -> None:
    """Get STS credentials that can only read a job's inputs.

    They allow GetObject and ListBucket below the inputs' fixed prefixes.  The request is made with
    the credentials that boto3 finds, which have to be those of an IAM user.  The output is JSON
    with the secrets in plain text, for `ray-mr credentials seal`.

    \b
    Examples:
      ray-mr credentials federate job.yml | ray-mr credentials seal --key worker.pub.pem
      ray-mr credentials federate 's3://pings/2014/**' --duration 90min
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from ray_mr.aws import sts

    if sys.stdout.isatty():
        raise CredentialsError(
            "secrets are not printed on a terminal", "pipe them into `ray-mr credentials seal`"
        )
    temporary = sts.federate(_list_patterns(places), seconds=int(_parse_duration(duration)))
    write_result(temporary.to_json(show_secrets=True))


def _parse_duration(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--duration") from None


def _list_patterns(places: tuple[str, ...]) -> list[str]:
    from ray_mr.jobs.job import Job

    patterns: list[str] = []
    for place in places:
        inputs = [place] if "://" in place else list(Job.from_file(place).inputs)
        patterns += [each for each in inputs if isinstance(each, str) and each.startswith("s3://")]
    if not patterns:
        raise JobError(f"no s3:// input in {', '.join(places)}", "give patterns: s3://bucket/**")
    return patterns


@credentials.command()
@click.argument("file", type=click.File(), default="-")
@click.option(
    "--key", metavar="PEM", help="Key file, public or private.  [default: RAY_MR_KEY_FILE]"
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["new", "2014"]),
    default="new",
    show_default=True,
    help="Envelope format; 2014 is for images of that time and has no expiry.",
)
def seal(*, file: TextIO, key: str | None, form: str) -> None:
    """Seal credentials for a task's CREDENTIALS.

    Reads JSON from FILE or stdin, as printed by `ray-mr credentials federate`, `aws sts` or a
    credential_process: accessKeyId, secretAccessKey, sessionToken, region, expiry.

    \b
    Example:
      ray-mr credentials seal --key worker.pub.pem credentials.json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from ray_mr.credentials import parse_credentials, seal_credentials
    from ray_mr.stores import access

    credentials = parse_credentials(_read_text(file), file.name)
    if key:
        pem, origin = access.read_key(key), key
    else:
        default_key = access.find_key()
        pem, origin = default_key.pem, default_key.origin
    envelope = seal_credentials(credentials, pem, origin, form=cast("EnvelopeFormat", form))
    if form == "2014" and credentials.expiry is not None:
        print_message("note: an envelope of 2014 has no place for the expiry")
    write_result(envelope)


@credentials.command("open")
@click.argument("file", type=click.File(), required=False)
@click.option(
    "--key", metavar="PEM", help="File of the private key.  [default: RAY_MR_KEY_FILE or secret]"
)
@click.option("--show-secrets", is_flag=True, help="Print the secrets in plain text.")
def open_(*, file: TextIO | None, key: str | None, show_secrets: bool) -> None:
    """Show the credentials in an envelope.

    Reads the envelope from FILE, from stdin (-), or by default from CREDENTIALS.  Prints the format
    of the envelope on stderr, and also opens one of 2014 where tasks may not.

    \b
    Example:
      ray-mr credentials open --key worker.key.pem envelope.txt
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    from dataclasses import replace

    from ray_mr.credentials import detect_format, open_envelope
    from ray_mr.stores import access

    text = os.environ.get(access.ENVELOPE, "") if file is None else _read_text(file)
    if not text.strip():
        if file is not None or sys.stdin.isatty():
            raise CredentialsError("no envelope", "give a FILE, or set CREDENTIALS")
        text = _read_text(sys.stdin)
    form = detect_format(text)
    content = open_envelope(text, replace(access.find_key(key), allow_2014=True))
    print_message(_FORMATS[form])
    write_result(content.to_json(show_secrets=show_secrets))


def _read_text(file: TextIO) -> str:
    try:
        return file.read()
    except (OSError, UnicodeDecodeError):
        raise CredentialsError(f"{file.name}: cannot be read as text") from None
