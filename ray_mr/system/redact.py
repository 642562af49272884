"""URIs as people may see them: without user, password, or what a query gives access by."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/?#]*@")
_SECRET = re.compile(
    r"(?<=[?&])([^=&#]*(?:sig|token|secret|passw|credential|key|auth)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def redact_uri(uri: str) -> str:
    """A URI that may stand in a message or a report; a path, and any ``s3://``, as it is."""
    if not uri.lower().startswith(("http://", "https://")):
        return uri if uri.startswith("s3://") else _USER.sub("...@", uri)
    return _SECRET.sub(r"\1=...", _USER.sub("", uri.partition("#")[0]))
