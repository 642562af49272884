"""Sealed credentials: S3 keys in an envelope that only the owner of a private key can open.

Callers use these functions of text, keys and time.  They read no file and no environment variable;
``stores/access.py`` finds the key and the envelope.

1. ``generate_key`` makes a key pair.
2. ``parse_credentials`` reads credentials from JSON, and ``seal_credentials`` puts them into an
   envelope: the value of the environment variable ``CREDENTIALS``.
3. ``open_envelope`` returns the credentials in an envelope; ``open_unexpired`` also checks their
   expiry.  ``detect_format`` needs no key.

The present format is a JSON object in base64::

    {"ray_mr": 1, "expiry": ISO 8601 or "", "key": K, "nonce": N, "data": D}

1. ``K`` is a random AES-256 key, encrypted with RSA-OAEP (SHA-256).
2. ``D`` is the JSON of the credentials, encrypted with AES-GCM under that key.
3. AES-GCM authenticates version, expiry and ``K`` along with ``D``, so that every changed byte is
   detected.  Anyone who has the public key can seal: an envelope hides a secret, it signs nothing.

The format of 2014 has no authentication: a change is detected only if it breaks padding or JSON.
Such an envelope is opened only if ``Key.allow_2014`` is set.

No error of this module repeats anything of an envelope's content.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from ray_mr.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

EnvelopeFormat = Literal["new", "2014"]
"""Format of an envelope: the present one, or that of 2014."""

KEY_BITS = 3072
"""Length of generated keys."""
MIN_KEY_BITS = 2048
"""Minimum length of a key that seals."""
MIN_KEY_BITS_2014 = 1360
"""Minimum length for envelopes of 2014, whose RSA part contains 128 bytes."""
MAX_ENVELOPE_BYTES = 128 << 10
"""Maximum length of an envelope: that of an environment variable."""
_FIELDS = ("accessKeyId", "secretAccessKey", "sessionToken", "region")
_PASSPHRASE_BYTES = 128
_AWS_NAMES = {
    "AccessKeyId": "accessKeyId",
    "SecretAccessKey": "secretAccessKey",
    "SessionToken": "sessionToken",
    "Region": "region",
    "Expiration": "expiry",
    "expires": "expiry",
}
"""Fields by the names that other tools give them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys for S3.  They cannot be pickled: only envelopes are sent between processes."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    """AWS region; empty for that of the environment."""
    expiry: dt.datetime | None = None
    """Time of expiry, with a time zone; ``None`` if unknown."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("opened credentials stay in the process that opened them")

    def seconds_left(self, now: dt.datetime) -> float | None:
        """Return the seconds until they expire; ``None`` if unknown."""
        return None if self.expiry is None else (self.expiry - now).total_seconds()

    def to_json(self, *, show_secrets: bool) -> str:
        """Return the JSON that ``credentials open`` prints and ``credentials seal`` reads."""
        secret = self.secret_access_key if show_secrets else _mask(self.secret_access_key)
        token = self.session_token if show_secrets else _mask(self.session_token)
        facts = {
            "accessKeyId": self.access_key_id,
            "secretAccessKey": secret,
            "sessionToken": token,
            "region": self.region,
            "expiry": format_time(self.expiry) or None,
        }
        return json.dumps(facts, indent=1)


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, and the formats that it may open."""

    pem: bytes = field(repr=False)
    """The key in PKCS#1 or PKCS#8."""
    origin: str
    """Origin of the key, for messages."""
    allow_2014: bool = False
    """Whether envelopes of 2014, which are not authenticated, may be opened."""


def _mask(secret: str) -> str:
    return "*" * 8 if secret else ""


def format_time(moment: dt.datetime | None) -> str:
    """Return a text like ``2026-11-24T21:00:00Z``; empty for ``None``."""
    return "" if moment is None else moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> dt.datetime:
    """Parse an ISO 8601 text with a time zone.

    Raises:
        ValueError: The text is not such a time.
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(dt.UTC)


# ------------------------------------------------------------ credentials as JSON


def parse_credentials(text: str | bytes, origin: str) -> Credentials:
    """Parse credentials from JSON as ray_mr, the AWS CLI or a credential process print it.

    Raises:
        CredentialsError: The text is not such JSON.
    """
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsError(
            f"{origin}: not JSON",
            'write {"accessKeyId": ..., "secretAccessKey": ..., "sessionToken": ...}',
        ) from None
    if isinstance(facts, dict) and isinstance(facts.get("Credentials"), dict):
        facts = facts["Credentials"]
    if not isinstance(facts, dict):
        raise CredentialsError(f"{origin}: the JSON is not an object with an accessKeyId")
    fields = {_AWS_NAMES.get(name, name): value for name, value in facts.items()}
    for name in _FIELDS:
        value = fields.get(name)
        if name in _FIELDS[:2] and not value:
            raise CredentialsError(f"{origin}: {name} is missing")
        if not isinstance(value, str | None):
            raise CredentialsError(f"{origin}: {name} is not a string")
    try:
        expiry = parse_time(fields["expiry"]) if fields.get("expiry") else None
    except (ValueError, TypeError):
        raise CredentialsError(
            f"{origin}: expiry is not a time", "write it like 2026-11-24T21:00:00Z"
        ) from None
    return Credentials(
        fields["accessKeyId"],
        fields["secretAccessKey"],
        fields.get("sessionToken") or "",
        fields.get("region") or "",
        expiry,
    )


# ------------------------------------------------------------ keys


def generate_key(bits: int = KEY_BITS) -> tuple[bytes, bytes]:
    """Return a new private key (PKCS#8) and its public key, both as PEM."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def _load_private_key(key: Key) -> rsa.RSAPrivateKey:
    try:
        private_key = serialization.load_pem_private_key(key.pem, password=None)
    except TypeError:
        raise CredentialsError(
            f"{key.origin}: the key has a passphrase", "give a key without one"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(
            f"{key.origin}: not a private key in PEM",
            "it begins with -----BEGIN RSA PRIVATE KEY----- or -----BEGIN PRIVATE KEY-----",
        ) from None
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise CredentialsError(f"{key.origin}: not an RSA key")
    return private_key


def _load_public_key(pem: bytes, origin: str) -> rsa.RSAPublicKey:
    """Load the public key of a PEM that has the public or the private key."""
    if b"PRIVATE KEY" in pem:
        return _load_private_key(Key(pem, origin)).public_key()
    try:
        public_key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(f"{origin}: not a key in PEM") from None
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise CredentialsError(f"{origin}: not an RSA key")
    return public_key


# ------------------------------------------------------------ sealing


def seal_credentials(
    credentials: Credentials, pem: bytes, origin: str, *, form: EnvelopeFormat = "new"
) -> str:
    """Seal credentials: return an envelope, one line of base64.

    Args:
        credentials: Credentials to seal.
        pem: The public or the private key.
        origin: Origin of the key, for messages.
        form: ``2014`` is for images of that time and has no place for an expiry.

    Raises:
        CredentialsError: The key is not an RSA key, or too short.
    """
    public = _load_public_key(pem, origin)
    min_bits = MIN_KEY_BITS if form == "new" else MIN_KEY_BITS_2014
    if public.key_size < min_bits:
        raise CredentialsError(
            f"{origin}: a key of {public.key_size} bits is too short: at least {min_bits}"
        )
    envelope = _seal_2014(credentials, public) if form == "2014" else _seal(credentials, public)
    return base64.b64encode(json.dumps(envelope).encode()).decode()


def _seal(credentials: Credentials, public: rsa.RSAPublicKey) -> dict[str, Any]:
    secret, nonce = AESGCM.generate_key(256), os.urandom(12)
    wrapped = public.encrypt(secret, _OAEP)
    expiry = format_time(credentials.expiry)
    plain = credentials.to_json(show_secrets=True).encode()
    data = AESGCM(secret).encrypt(nonce, plain, _authenticated(1, expiry, wrapped))
    encoded = {"key": wrapped, "nonce": nonce, "data": data}
    texts = {name: base64.b64encode(each).decode() for name, each in encoded.items()}
    return {"ray_mr": 1, "expiry": expiry, **texts}


def _authenticated(version: int, expiry: str, wrapped: bytes) -> bytes:
    return f"ray_mr credentials {version}\n{expiry}\n".encode() + wrapped


_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_OAEP_2014 = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - 2014's


def _seal_2014(credentials: Credentials, public: rsa.RSAPublicKey) -> dict[str, Any]:
    random, salt = os.urandom(_PASSPHRASE_BYTES), os.urandom(8)
    facts = (
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token,
        credentials.region,
    )
    plain = json.dumps(dict(zip(_FIELDS, facts, strict=True))).encode()
    key, iv = _bytes_to_key(base64.b64encode(random), salt)
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    padded = padder.update(plain) + padder.finalize()
    data = cipher.update(padded) + cipher.finalize()
    inner = {"ct": base64.b64encode(data).decode(), "iv": iv.hex(), "s": salt.hex()}
    wrapped = base64.b64encode(public.encrypt(random, _OAEP_2014)).decode()
    return {"credentials": json.dumps(inner), "symmetricKey": wrapped}


def _bytes_to_key(passphrase: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Derive a key of 32 bytes and an IV of 16: OpenSSL's EVP_BytesToKey, MD5, one iteration."""
    material = digest = b""
    while len(material) < 48:
        md5 = hashes.Hash(hashes.MD5())  # noqa: S303 - the format of 2014
        md5.update(digest + passphrase + salt)
        digest = md5.finalize()
        material += digest
    return material[:32], material[32:48]


# ------------------------------------------------------------ opening


def detect_format(text: str) -> EnvelopeFormat:
    """Return the format of an envelope, without opening it.

    Raises:
        CredentialsError: The text is not an envelope.
    """
    return "2014" if "symmetricKey" in _parse_envelope(text) else "new"


def open_envelope(text: str, key: Key) -> Credentials:
    """Open an envelope of either format.

    Raises:
        CredentialsError: The text is not an envelope, was changed, is for another key, or has the
            format of 2014 and ``key`` does not allow that.
    """
    envelope = _parse_envelope(text)
    if "symmetricKey" not in envelope:
        return _open(envelope, key)
    if not key.allow_2014:
        raise CredentialsError(
            "the envelope has the format of 2014, which is not authenticated and not allowed here",
            "seal the credentials again, or set RAY_MR_ALLOW_2014=1 beside the key",
        )
    return _open_2014(envelope, key)


def open_unexpired(text: str, fetch_key: Callable[[], Key], now: dt.datetime) -> Credentials:
    """Open an envelope whose credentials have not expired.

    Raises:
        CredentialsError: As for ``open_envelope``, or they have expired.
    """
    detect_format(text)  # before the key is fetched
    credentials = open_envelope(text, fetch_key())
    seconds = credentials.seconds_left(now)
    if seconds is not None and seconds <= 0:
        raise CredentialsError(
            f"the credentials have expired: {format_time(credentials.expiry)}",
            "get new ones and seal them: `ray-mr credentials federate | ray-mr credentials seal`",
        )
    return credentials


def _parse_envelope(text: str) -> dict[str, Any]:
    if not text.strip():
        raise CredentialsError("the envelope is empty")
    if len(text) > MAX_ENVELOPE_BYTES:
        raise CredentialsError(f"the envelope has {len(text):,} characters, more than 131,072")
    envelope = _parse_json(_decode_base64("".join(text.split()), "the envelope"), "the envelope")
    if not envelope.keys() & {"ray_mr", "symmetricKey"}:
        raise CredentialsError(
            "the envelope has an unknown format", "it has neither `ray_mr` nor `symmetricKey`"
        )
    return envelope


def _decode_base64(value: object, what: str) -> bytes:
    try:
        return base64.b64decode(str(value).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise CredentialsError(
            f"{what} is not base64: it was cut off, or is not an envelope"
        ) from None


def _parse_json(data: str | bytes, what: str) -> dict[str, Any]:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise CredentialsError(f"{what} is not a JSON object")
    return facts


def _get_text(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope.get(name)
    if not isinstance(value, str):
        raise CredentialsError(f"the envelope has no {name}")
    return value


def _open(envelope: Mapping[str, Any], key: Key) -> Credentials:
    version = envelope["ray_mr"]
    if type(version) is not int or version != 1:
        raise CredentialsError(
            f"the envelope has version {str(version)[:20]!r}; this ray_mr reads version 1",
            "seal the credentials again, or update ray_mr",
        )
    expiry = _get_text(envelope, "expiry")
    wrapped, nonce, data = (
        _decode_base64(_get_text(envelope, name), f"the envelope's {name}")
        for name in ("key", "nonce", "data")
    )
    secret = _decrypt_secret(wrapped, key, _OAEP)
    try:
        plain = AESGCM(secret).decrypt(nonce, data, _authenticated(1, expiry, wrapped))
    except (InvalidTag, ValueError):
        raise CredentialsError(
            "the envelope was changed after it was sealed", "seal the credentials again"
        ) from None
    return parse_credentials(plain, "the opened envelope")


def _decrypt_secret(wrapped: bytes, key: Key, scheme: padding.AsymmetricPadding) -> bytes:
    try:
        return _load_private_key(key).decrypt(wrapped, scheme)
    except ValueError:
        raise CredentialsError(
            f"the envelope is for another key than that of {key.origin}, or was changed",
            "seal the credentials with that key's public key",
        ) from None


def _open_2014(envelope: Mapping[str, Any], key: Key) -> Credentials:
    inner = _parse_json(_get_text(envelope, "credentials"), "the envelope's `credentials`")
    random = _decrypt_secret(
        _decode_base64(_get_text(envelope, "symmetricKey"), "the envelope's symmetricKey"),
        key,
        _OAEP_2014,
    )
    data = _decode_base64(_get_text(inner, "ct"), "the envelope's `ct`")
    try:
        salt = bytes.fromhex(_get_text(inner, "s"))
    except ValueError:
        raise CredentialsError("the envelope's salt `s` is not hexadecimal") from None
    secret, iv = _bytes_to_key(base64.b64encode(random), salt)
    cipher = Cipher(algorithms.AES(secret), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(128).unpadder()
    try:
        padded = cipher.update(data) + cipher.finalize()
        plain = unpadder.update(padded) + unpadder.finalize()
        text = plain.decode()
    except ValueError:
        raise CredentialsError(
            "the envelope cannot be opened: it was changed after it was sealed"
        ) from None
    return parse_credentials(text, "the opened envelope")
