"""Translation of boto3's exceptions into those of ``ray_mr.errors``.

How callers use it: every request is made within ``translate_errors``, so no exception of boto3
leaves this room.  The text of an exception that could hold a header, a token or the output of a
credential process is never repeated in a message.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from ray_mr.errors import (
    CHANGING_INPUT_HINT,
    RESTORE_HINT,
    CredentialsError,
    CredentialsExpired,
    ObjectArchived,
    ObjectChanged,
    ObjectDenied,
    RayMrError,
    StoreError,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_TEXT_CHARS = 300
"""Maximum length of a server's or library's text within a message."""

_CREDENTIAL_CODES = {
    "SignatureDoesNotMatch": "the secret key is wrong",
    "InvalidAccessKeyId": "the access key is unknown, or has been withdrawn or has expired",
    "ExpiredToken": "the session token has expired: get a new one",
    "ExpiredTokenException": "the session token has expired: get a new one",
    "TokenRefreshRequired": "the session token has expired: get a new one",
    "InvalidToken": "the session token is wrong",
    "InvalidClientTokenId": "the access key is unknown",
    "UnrecognizedClientException": "the access key is unknown",
    "InvalidSecurity": "the credentials are not valid",
    "NotSignedUp": "the account may not use S3",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "AuthorizationHeaderMalformed": "the region or the access key is wrong",
}
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.UnknownCredentialError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.UnknownTokenProviderError,
    boto.RefreshWithMFAUnsupportedError,
    boto.MetadataRetrievalError,
    boto.SSOError,
    boto.LoginError,
)
_BUSY_CODES = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestTimeout",
    "RequestTimeoutException",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "PriorRequestNotComplete",
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
}
_BROKEN_ERRORS = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
    boto.ChecksumError,
    boto.AwsChunkedWrapperError,
    boto.CapacityNotAvailableError,
    OSError,
)
_CHECKSUM_CODES = {
    "MissingContentLength",
    "NotImplemented",
    "XAmzContentSHA256Mismatch",
    "InvalidArgument",
    "InvalidRequest",
    "SignatureDoesNotMatch",
    "BadDigest",
    "MalformedTrailerError",
    "UnsupportedTransferEncoding",
}
"""Answers of servers that do not support a checksum after the body of a request."""
_CHECKSUMS_HINT = (
    "for a server that does not support checksums after a body, "
    "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
)
_CUSTOMER_KEY_TEXT = "Server Side Encryption"
"""Words in AWS's answer for an object that is encrypted with the customer's own key."""
_DENIED_HINT = (
    "the credentials in use have no permission for it; see their policy and the bucket's; "
    "for a bucket whose reader pays, set `request_payer: true` (--request-payer); "
    "for a public one, `anonymous: true` (--anonymous)"
)
_SETTINGS_HINT = "see AWS_ENDPOINT_URL, AWS_DEFAULT_REGION and the AWS configuration file"


@contextlib.contextmanager
def translate_errors(uri: str, endpoint: str = "", *, listed: bool = False) -> Iterator[None]:
    """Translate boto3's exceptions; a message names the URI and, if at fault, the endpoint.

    Args:
        uri: Object or prefix of the requests.
        endpoint: URL of the client's endpoint, if there is a client.
        listed: The object was listed before; if it is missing now, it has changed.

    Raises:
        ObjectChanged: The object was ``listed`` and is missing, or a precondition failed.
        CredentialsError: There are no credentials, or the server refused them.
        StoreUnavailable: No connection, no valid answer, or the store is busy.
        StoreError: Any other failure.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _translate_answer(uri, error, get_origin(endpoint), listed=listed) from None
    except ResponseParserError:
        where = get_origin(endpoint) or "the store"
        raise StoreUnavailable(
            f"{uri}: no proper answer from {where}: it is not an answer of S3", _SETTINGS_HINT
        ) from None
    except (boto.BotoCoreError, boto.UndefinedModelAttributeError, OSError, ValueError) as error:
        raise _translate_failure(uri, error, get_origin(endpoint)) from None


def get_origin(endpoint: str) -> str:
    """Return scheme, host and port of an endpoint's URL, without user and password."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""


def get_code_and_status(error: boto.ClientError) -> tuple[str, int]:
    """Return the error code and the HTTP status of an answer.

    Returns:
        A code like ``NoSuchKey``, or a number after ``HEAD``; and the status, 0 if unknown.
    """
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return code, int(status or (code if code.isdecimal() else 0))


def _translate_answer(
    uri: str, error: boto.ClientError, endpoint: str, *, listed: bool
) -> RayMrError:
    code, status = get_code_and_status(error)
    text = str(error.response.get("Error", {}).get("Message", ""))[:_MAX_TEXT_CHARS]
    where = endpoint or "the store"
    advice = _CHECKSUMS_HINT if _is_over_checksums(error, code, status) else ""
    if code in _CREDENTIAL_CODES:
        kind = CredentialsExpired if code in _EXPIRED_CODES else CredentialsError
        hint = "\n  ".join(filter(None, (_CREDENTIAL_CODES[code], advice)))
        return kind(f"{uri}: {where} refused the credentials ({code})", hint)
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StoreError(
            f"{uri}: there is no bucket {bucket} at {where}", "are its name and the endpoint right?"
        )
    if status == 412 or (status == 404 and listed):
        return make_change_error(uri)
    if code in _BUSY_CODES or status == 429 or (status >= 500 and status != 501):
        message = f"{uri}: {where} does not answer properly ({code or status})"
        return StoreUnavailable(message, "\n  ".join(filter(None, (text, advice))))
    if status == 403 or (listed and (code.startswith("KMS.") or _CUSTOMER_KEY_TEXT in text)):
        return _make_denied_error(uri, code, text, listed=listed)
    if status == 404:
        text = "it does not exist"
    hint = advice or (_SETTINGS_HINT if status in (301, 307, 400) else "")
    return StoreError(f"{uri}: {where} refused ({code or status}): {text}", hint)


def make_change_error(uri: str) -> ObjectChanged:
    """Return the error of an object that is not the one that was listed."""
    return ObjectChanged(f"{uri} changed (or was deleted) since it was listed", CHANGING_INPUT_HINT)


def _is_over_checksums(error: boto.ClientError, code: str, status: int) -> bool:
    """Return whether a server may have refused a body because of the checksum after it."""
    sending = error.operation_name in ("PutObject", "UploadPart")
    return sending and (code in _CHECKSUM_CODES or status in (411, 501))


def _make_denied_error(uri: str, code: str, text: str, *, listed: bool) -> RayMrError:
    kind: type[RayMrError] = ObjectDenied if listed else StoreError
    if code == "InvalidObjectState":
        return make_archived_error(uri) if listed else StoreError(*make_archived_error(uri).args)
    if code not in ("AccessDenied", "403", "AllAccessDisabled"):
        return kind(f"{uri}: access denied ({code}): {text}", _DENIED_HINT)
    return kind(f"{uri}: access denied ({code})", _DENIED_HINT)


def make_archived_error(uri: str) -> ObjectArchived:
    """Return the error of an object that must be restored before it can be read."""
    return ObjectArchived(f"{uri} is archived (Glacier) and cannot be read as it is", RESTORE_HINT)


def _translate_failure(uri: str, error: Exception, endpoint: str) -> RayMrError:
    name = type(error).__name__
    if isinstance(error, _CREDENTIAL_ERRORS):
        return CredentialsError(
            f"{uri}: no usable AWS credentials ({name})",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role; "
            "a public bucket is read without them by `anonymous: true` (--anonymous)",
        )
    where = endpoint or get_origin(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    if isinstance(error, boto.SSLError):
        return StoreError(
            f"{uri}: no secure connection to {where or 'the store'}",
            "AWS_CA_BUNDLE names the certificate of a private authority",
        )
    if isinstance(error, _BROKEN_ERRORS):
        return StoreUnavailable(
            f"{uri}: no proper answer from {where or 'the store'} ({name})",
            "is the endpoint right, and can it be reached from here?",
        )
    text = "" if isinstance(error, ValueError) else f": {str(error)[:_MAX_TEXT_CHARS]}"
    return StoreError(f"{uri}: a request cannot be made ({name}){text}", _SETTINGS_HINT)
