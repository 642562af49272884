"""Sealed credentials: the ``CREDENTIALS`` envelope, new and of 2014, and the keys that open it.

Pure functions of text, keys and time: where a key comes from, and what is done with opened
credentials, is the business of others.  No error here repeats anything of what was opened.

The envelope of today is JSON in base64::

    {"ray_mr": 1, "expiry": ISO 8601 or "", "key": K, "nonce": N, "data": D}

``K`` is RSA-OAEP (SHA-256) of 32 random bytes, the key of AES-256-GCM; ``D`` is the credentials'
JSON under it.  Version, expiry and ``K`` are authenticated with it: a change to any byte is seen.
Whoever has the public key can seal; an envelope is a secret's cover, no signature.

That of 2014 has no authentication: a change is seen only where it breaks padding or JSON.  It is
opened only where its key allows it.
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
"""The envelope's kind: ours, or that of 2014."""

KEY_BITS = 3072
MIN_KEY_BITS = 2048
MIN_KEY_BITS_2014 = 1360
"""Less has no room for the 128 bytes that an envelope of 2014 holds in its RSA part."""
MAX_ENVELOPE_BYTES = 128 << 10
"""An environment variable holds no more."""
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
"""What other tools call the fields."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys for S3.  They do not pickle: what travels is the envelope."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    """Empty: that of the environment."""
    expiry: dt.datetime | None = None
    """With a time zone; ``None`` where nobody has said."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("opened credentials stay in the process that opened them")

    def seconds_left(self, now: dt.datetime) -> float | None:
        """Time until they expire; ``None`` if nobody knows."""
        return None if self.expiry is None else (self.expiry - now).total_seconds()

    def to_json(self, *, show_secrets: bool) -> str:
        """As ``credentials open`` prints them, and as ``credentials seal`` takes them."""
        secret = self.secret_access_key if show_secrets else _masked(self.secret_access_key)
        token = self.session_token if show_secrets else _masked(self.session_token)
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
    """A private key, and what it may open."""

    pem: bytes = field(repr=False)
    """PKCS#1 or PKCS#8."""
    origin: str
    """Where it comes from, for messages."""
    allow_2014: bool = False
    """Envelopes of 2014, which nothing authenticates, are opened too."""


def _masked(secret: str) -> str:
    return "*" * 8 if secret else ""


def format_time(moment: dt.datetime | None) -> str:
    """``2026-11-24T21:00:00Z``; empty for ``None``."""
    return "" if moment is None else moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> dt.datetime:
    """The moment of an ISO 8601 text with a time zone.

    Raises:
        ValueError: It is none.
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no time zone")
    return moment.astimezone(dt.UTC)


# ------------------------------------------------------------ credentials as JSON


def parse_credentials(text: str | bytes, origin: str) -> Credentials:
    """Parse credentials from JSON as ray_mr, the AWS CLI or a credential process print it.

    Raises:
        CredentialsError: It has no such JSON; nothing of it is repeated.
    """
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        raise CredentialsError(
            f"{origin}: no JSON",
            'it has to be {"accessKeyId": ..., "secretAccessKey": ..., "sessionToken": ...}',
        ) from None
    if isinstance(facts, dict) and isinstance(facts.get("Credentials"), dict):
        facts = facts["Credentials"]
    if not isinstance(facts, dict):
        raise CredentialsError(f"{origin}: the JSON is no object with an accessKeyId")
    known = {_AWS_NAMES.get(name, name): value for name, value in facts.items()}
    for name in _FIELDS:
        value = known.get(name)
        if name in _FIELDS[:2] and not value:
            raise CredentialsError(f"{origin}: there is no {name}")
        if not isinstance(value, str | None):
            raise CredentialsError(f"{origin}: {name} is no text")
    try:
        expiry = parse_time(known["expiry"]) if known.get("expiry") else None
    except (ValueError, TypeError):
        raise CredentialsError(
            f"{origin}: expiry is no time", "write it like 2026-11-24T21:00:00Z"
        ) from None
    return Credentials(
        known["accessKeyId"],
        known["secretAccessKey"],
        known.get("sessionToken") or "",
        known.get("region") or "",
        expiry,
    )


# ------------------------------------------------------------ keys


def generate_key(bits: int = KEY_BITS) -> tuple[bytes, bytes]:
    """A new private key (PKCS#8) and its public key, as PEM."""
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


def _private(key: Key) -> rsa.RSAPrivateKey:
    try:
        made = serialization.load_pem_private_key(key.pem, password=None)
    except TypeError:
        raise CredentialsError(
            f"{key.origin}: the key has a passphrase", "give a key without one"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(
            f"{key.origin}: not a private key in PEM",
            "it begins with -----BEGIN RSA PRIVATE KEY----- or -----BEGIN PRIVATE KEY-----",
        ) from None
    if not isinstance(made, rsa.RSAPrivateKey):
        raise CredentialsError(f"{key.origin}: not an RSA key")
    return made


def _public(pem: bytes, origin: str) -> rsa.RSAPublicKey:
    """The public key of a PEM that has it, or has the private one."""
    if b"PRIVATE KEY" in pem:
        return _private(Key(pem, origin)).public_key()
    try:
        made = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialsError(f"{origin}: not a key in PEM") from None
    if not isinstance(made, rsa.RSAPublicKey):
        raise CredentialsError(f"{origin}: not an RSA key")
    return made


# ------------------------------------------------------------ sealing


def seal_credentials(
    credentials: Credentials, pem: bytes, origin: str, *, form: EnvelopeFormat = "new"
) -> str:
    """An envelope that only the key's owner opens: one line of base64.

    Args:
        credentials: What to seal.
        pem: The public key, or the private one.
        origin: Where the key comes from, for messages.
        form: ``2014`` for images of that time; it has no place for an expiry.

    Raises:
        CredentialsError: It is no RSA key, or too short.
    """
    public = _public(pem, origin)
    least = MIN_KEY_BITS if form == "new" else MIN_KEY_BITS_2014
    if public.key_size < least:
        raise CredentialsError(
            f"{origin}: a key of {public.key_size} bits is too short: at least {least}"
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
    """OpenSSL's EVP_BytesToKey with MD5, once over: a key of 32 bytes and an IV of 16."""
    material = digest = b""
    while len(material) < 48:
        md5 = hashes.Hash(hashes.MD5())  # noqa: S303 - as it was made in 2014
        md5.update(digest + passphrase + salt)
        digest = md5.finalize()
        material += digest
    return material[:32], material[32:48]


# ------------------------------------------------------------ opening


def detect_format(text: str) -> EnvelopeFormat:
    """Which envelope a text is, without a key.

    Raises:
        CredentialsError: It is none.
    """
    return "2014" if "symmetricKey" in _outer(text) else "new"


def open_envelope(text: str, key: Key) -> Credentials:
    """Open an envelope of either kind.

    Raises:
        CredentialsError: It is none, was changed, is for another key, or is one of 2014 and the
            key does not allow it.
    """
    envelope = _outer(text)
    if "symmetricKey" not in envelope:
        return _open(envelope, key)
    if not key.allow_2014:
        raise CredentialsError(
            "the envelope is of 2014, which nothing authenticates, and its key does not allow it",
            "seal the credentials anew, or set RAY_MR_ALLOW_2014=1 beside the key",
        )
    return _open_2014(envelope, key)


def open_unexpired(text: str, fetch_key: Callable[[], Key], now: dt.datetime) -> Credentials:
    """Open an envelope to use what is in it; see ``open_envelope``.

    Raises:
        CredentialsError: As there, or they have expired.
    """
    detect_format(text)  # before anybody is asked for the key
    credentials = open_envelope(text, fetch_key())
    left = credentials.seconds_left(now)
    if left is not None and left <= 0:
        raise CredentialsError(
            f"the credentials have expired: {format_time(credentials.expiry)}",
            "get new ones and seal them: `ray-mr credentials federate | ray-mr credentials seal`",
        )
    return credentials


def _outer(text: str) -> dict[str, Any]:
    if not text.strip():
        raise CredentialsError("the envelope is empty")
    if len(text) > MAX_ENVELOPE_BYTES:
        raise CredentialsError(f"the envelope has {len(text):,} letters, over 131,072")
    envelope = _json(_decoded("".join(text.split()), "the envelope"), "the envelope")
    if not envelope.keys() & {"ray_mr", "symmetricKey"}:
        raise CredentialsError(
            "the envelope is of no known kind", "it has neither `ray_mr` nor `symmetricKey`"
        )
    return envelope


def _decoded(value: object, what: str) -> bytes:
    try:
        return base64.b64decode(str(value).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise CredentialsError(f"{what} is not base64: cut off, or not an envelope") from None


def _json(data: str | bytes, what: str) -> dict[str, Any]:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise CredentialsError(f"{what} holds no JSON object")
    return facts


def _part(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope.get(name)
    if not isinstance(value, str):
        raise CredentialsError(f"the envelope has no {name}")
    return value


def _open(envelope: Mapping[str, Any], key: Key) -> Credentials:
    version = envelope["ray_mr"]
    if type(version) is not int or version != 1:
        raise CredentialsError(
            f"the envelope is of version {str(version)[:20]!r}; this ray_mr knows version 1",
            "seal the credentials anew, or update ray_mr",
        )
    expiry = _part(envelope, "expiry")
    wrapped, nonce, data = (
        _decoded(_part(envelope, name), f"the envelope's {name}")
        for name in ("key", "nonce", "data")
    )
    secret = _unwrapped(wrapped, key, _OAEP)
    try:
        plain = AESGCM(secret).decrypt(nonce, data, _authenticated(1, expiry, wrapped))
    except (InvalidTag, ValueError):
        raise CredentialsError(
            "the envelope was changed after it was sealed", "seal the credentials anew"
        ) from None
    return parse_credentials(plain, "the opened envelope")


def _unwrapped(wrapped: bytes, key: Key, how: padding.AsymmetricPadding) -> bytes:
    try:
        return _private(key).decrypt(wrapped, how)
    except ValueError:
        raise CredentialsError(
            f"the envelope is not for the key of {key.origin}, or was changed",
            "seal with the public key that belongs to it",
        ) from None


def _open_2014(envelope: Mapping[str, Any], key: Key) -> Credentials:
    inner = _json(_part(envelope, "credentials"), "the envelope's `credentials`")
    random = _unwrapped(
        _decoded(_part(envelope, "symmetricKey"), "the envelope's symmetricKey"), key, _OAEP_2014
    )
    data = _decoded(_part(inner, "ct"), "the envelope's `ct`")
    try:
        salt = bytes.fromhex(_part(inner, "s"))
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
            "the envelope does not open: it was changed after it was sealed"
        ) from None
    return parse_credentials(text, "the opened envelope")
