"""Removal of secrets from URIs: user, password, and query parameters that grant access."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/?#]*@")
_SECRET = re.compile(
    r"(?<=[?&])([^=&#]*(?:sig|token|secret|passw|credential|key|auth)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def redact_uri(uri: str) -> str:
    """Return a URI for messages and reports; paths and ``s3://`` URIs are unchanged."""
    if not uri.lower().startswith(("http://", "https://")):
        return uri if uri.startswith("s3://") else _USER.sub("...@", uri)
    return _SECRET.sub(r"\1=...", _USER.sub("", uri.partition("#")[0]))
