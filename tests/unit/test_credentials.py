"""What sealed credentials promise: both kinds open, what was changed does not, nothing leaks."""

from __future__ import annotations

import base64
import datetime as dt
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ray_mr import credentials as sealed
from ray_mr.cli.main import main
from ray_mr.credentials import Credentials, Key
from ray_mr.errors import CredentialsError
from shared import shared

NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "token-" + "x" * 400
FOUND = Credentials("AKIAIOSFODNN7EXAMPLE", SECRET, TOKEN, "eu-west-1", NOW + dt.timedelta(hours=2))
VECTORS = ["ascii", "long_session_token", "modern_cryptojs4"]


@pytest.fixture
def files(tmp_path: Path, key_pair: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with both keys, and an environment without any."""
    monkeypatch.chdir(tmp_path)
    for name in ("CREDENTIALS", "RAY_MR_KEY_FILE", "RAY_MR_KEY_SECRET", "RAY_MR_ALLOW_2014"):
        monkeypatch.delenv(name, raising=False)
    Path("w.key.pem").write_bytes(key_pair[0])
    Path("w.pub.pem").write_bytes(key_pair[1])
    return tmp_path


def call(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, ["credentials", *words], input=stdin)


def unpacked(envelope: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(base64.b64decode(envelope))
    return facts


def packed(facts: object) -> str:
    return base64.b64encode(json.dumps(facts).encode()).decode()


class TestEnvelopes:
    """Sealing and opening."""

    @pytest.mark.parametrize("form", ["new", "2014"])
    def test_sealed_credentials_open_to_the_same(
        self, key_pair: tuple[bytes, bytes], form: sealed.EnvelopeFormat
    ) -> None:
        """What is sealed opens to the same; the expiry only in the new form."""
        text = sealed.seal_credentials(FOUND, key_pair[1], "pub", form=form)
        found = sealed.open_envelope(text, Key(key_pair[0], "key", allow_2014=True))
        expected = FOUND.expiry if form == "new" else None
        assert found == Credentials(FOUND.access_key_id, SECRET, TOKEN, "eu-west-1", expected)
        assert sealed.detect_format(text) == form
        assert SECRET not in base64.b64decode(text).decode()

    def test_sealed_twice_differs(self, key_pair: tuple[bytes, bytes]) -> None:
        """No two envelopes share what would tell that they hold the same."""
        first, second = (
            unpacked(sealed.seal_credentials(FOUND, key_pair[1], "pub")) for _ in range(2)
        )
        assert all(first[name] != second[name] for name in ("key", "nonce", "data"))

    @pytest.mark.parametrize("name", VECTORS)
    @pytest.mark.parametrize("key", ["key", "pkcs8"])
    def test_envelopes_of_2014_are_opened(self, name: str, key: str) -> None:
        """Envelopes made by the code of 2014 open with the key in either form."""
        vector = json.loads(shared(f"data/credentials/{name}.json").read_text())
        pem = shared(f"data/credentials/throwaway_rsa2048.{key}.pem").read_bytes()
        found = sealed.open_envelope(vector["CREDENTIALS"], Key(pem, key, allow_2014=True))
        assert json.loads(found.to_json(show_secrets=True)) == {
            **json.loads(vector["plaintext"]),
            "expiry": None,
        }

    def test_2014_needs_leave(self, key_pair: tuple[bytes, bytes]) -> None:
        """Nothing authenticates an envelope of 2014: a key that does not say so opens none."""
        text = sealed.seal_credentials(FOUND, key_pair[1], "pub", form="2014")
        with pytest.raises(CredentialsError, match="RAY_MR_ALLOW_2014"):
            sealed.open_envelope(text, Key(key_pair[0], "key"))

    @pytest.mark.slow
    @pytest.mark.parametrize("part", ["key", "nonce", "data"])
    def test_every_changed_byte_is_seen(self, key_pair: tuple[bytes, bytes], part: str) -> None:
        """A flipped bit anywhere in a new envelope is an error, and no plaintext is in it."""
        envelope = unpacked(sealed.seal_credentials(FOUND, key_pair[1], "pub"))
        whole = base64.b64decode(envelope[part])
        for at in range(0, len(whole), max(1, len(whole) // 24)):
            changed = bytearray(whole)
            changed[at] ^= 1
            text = packed({**envelope, part: base64.b64encode(changed).decode()})
            with pytest.raises(CredentialsError) as caught:
                sealed.open_envelope(text, Key(key_pair[0], "key"))
            assert "AKIA" not in str(caught.value)
            assert SECRET not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"expiry": "2099-01-01T00:00:00Z"}, "changed after it was sealed"),
            ({"expiry": ""}, "changed after it was sealed"),
            ({"ray_mr": 2}, "version '2'"),
            ({"ray_mr": True}, "version 'True'"),
            ({"data": None}, "has no data"),
            ({"key": "%%%"}, "envelope's key is not base64"),
            ({"nonce": ""}, "changed after it was sealed"),
        ],
    )
    def test_changed_head_is_detected(
        self, key_pair: tuple[bytes, bytes], change: dict[str, object], message: str
    ) -> None:
        """Version and expiry are authenticated; a missing part is named."""
        envelope = unpacked(sealed.seal_credentials(FOUND, key_pair[1], "pub")) | change
        with pytest.raises(CredentialsError, match=message):
            sealed.open_envelope(packed(envelope), Key(key_pair[0], "key"))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "empty"),
            ("no base64!", "not base64"),
            ("AAAA", "not a JSON object"),
            (packed([1]), "not a JSON object"),
            (packed({"a": 1}), "unknown format"),
            (packed({"symmetricKey": "x"}), "no credentials"),
            (packed({"symmetricKey": "AAAA", "credentials": "{}"}), "for another key"),
            ("A" * 200_000, "characters"),
            (base64.b64encode(b"[" * 20_000).decode(), "not a JSON object"),
        ],
    )
    def test_text_without_envelope_is_an_error(
        self, key_pair: tuple[bytes, bytes], text: str, message: str
    ) -> None:
        """The error of a text that is not an envelope says what is missing."""
        with pytest.raises(CredentialsError, match=message):
            sealed.open_envelope(text, Key(key_pair[0], "key", allow_2014=True))

    def test_changed_envelope_of_2014_hides_its_content(
        self, key_pair: tuple[bytes, bytes]
    ) -> None:
        """A changed envelope of 2014 either opens to its own bytes or is an error without them."""
        envelope = unpacked(sealed.seal_credentials(FOUND, key_pair[1], "pub", form="2014"))
        inner = json.loads(envelope["credentials"])
        data = bytearray(base64.b64decode(inner["ct"]))
        for changed in (data[:-16], data[:-1] + bytes([data[-1] ^ 1]), data[:5]):
            inner["ct"] = base64.b64encode(changed).decode()
            text = packed({**envelope, "credentials": json.dumps(inner)})
            with pytest.raises(CredentialsError) as caught:
                sealed.open_envelope(text, Key(key_pair[0], "key", allow_2014=True))
            assert "AKIA" not in str(caught.value)

    def test_envelope_for_another_key_is_an_error(self, key_pair: tuple[bytes, bytes]) -> None:
        """An envelope for another key says so."""
        text = sealed.seal_credentials(FOUND, sealed.generate_key(2048)[1], "pub")
        with pytest.raises(CredentialsError, match="for another key than that of mine"):
            sealed.open_envelope(text, Key(key_pair[0], "mine"))

    def test_expired_credentials_are_refused(self, key_pair: tuple[bytes, bytes]) -> None:
        """Credentials are refused from the second on at which they expire."""
        text, key = sealed.seal_credentials(FOUND, key_pair[1], "pub"), Key(key_pair[0], "key")
        assert sealed.open_unexpired(text, lambda: key, NOW).seconds_left(NOW) == 7200
        with pytest.raises(CredentialsError, match="expired: 2026-11-24T14:00:00Z"):
            sealed.open_unexpired(text, lambda: key, NOW + dt.timedelta(hours=2))

    def test_no_pickle_no_repr(self) -> None:
        """Opened credentials do not travel, and do not show their secrets."""
        with pytest.raises(TypeError):
            pickle.dumps(FOUND)
        assert SECRET not in repr(FOUND)
        assert TOKEN not in repr(FOUND)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("nothing", "not JSON"),
            ("[]", "not an object"),
            ("{}", "accessKeyId is missing"),
            ('{"accessKeyId": "a"}', "secretAccessKey is missing"),
            ('{"accessKeyId": "a", "secretAccessKey": 7}', "secretAccessKey is not a string"),
            ('{"accessKeyId": "a", "secretAccessKey": "s", "expiry": "soon"}', "not a time"),
            ('{"accessKeyId": "a", "secretAccessKey": "s", "expiry": "2026-01-01"}', "not a time"),
        ],
    )
    def test_json_without_credentials_is_an_error(self, text: str, message: str) -> None:
        """JSON without credentials is named for what it lacks."""
        with pytest.raises(CredentialsError, match=message):
            sealed.parse_credentials(text, "stdin")

    def test_names_of_others(self) -> None:
        """What AWS' own tools print is understood."""
        facts = {
            "AccessKeyId": "a",
            "SecretAccessKey": "s",
            "SessionToken": "t",
            "Expiration": "2026-11-24T12:00:00+00:00",
        }
        for text in (json.dumps(facts), json.dumps({"Credentials": facts})):
            found = sealed.parse_credentials(text, "stdin")
            assert found == Credentials("a", "s", "t", "", NOW)


@pytest.mark.usefixtures("files")
class TestCommands:
    """``ray-mr credentials``."""

    def test_keygen_writes_two_files(self) -> None:
        """Two files: the private one is for its owner alone; nothing is written over."""
        assert call("keygen", "worker").exit_code == 0
        assert Path("worker.key.pem").stat().st_mode & 0o777 == 0o600
        before = Path("worker.key.pem").read_bytes()
        again = call("keygen", "worker")
        assert (again.exit_code, Path("worker.key.pem").read_bytes()) == (2, before)
        assert "worker.key.pem already exists" in again.stderr

    @pytest.mark.parametrize("form", ["new", "2014"])
    def test_seal_and_open(self, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        """A pipe of both gives back what went in; secrets are masked until asked for."""
        text = call(
            "seal", "--key", "w.pub.pem", "--format", form, stdin=FOUND.to_json(show_secrets=True)
        ).stdout
        monkeypatch.setenv("CREDENTIALS", text.strip())
        masked = call("open", "--key", "w.key.pem")
        assert masked.exit_code == 0
        assert SECRET not in masked.output
        assert json.loads(masked.stdout)["secretAccessKey"] == "********"
        assert json.loads(masked.stdout)["accessKeyId"] == FOUND.access_key_id
        assert ("2014" if form == "2014" else "envelope of the present format") in masked.stderr
        shown = call("open", "--key", "w.key.pem", "--show-secrets")
        facts = json.loads(FOUND.to_json(show_secrets=True))
        if form == "2014":
            facts["expiry"] = None
        assert json.loads(shown.stdout) == facts
        assert SECRET not in shown.stderr

    def test_open_stdin_and_key_of_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The envelope comes by stdin as well, the key by RAY_MR_KEY_FILE; either half seals."""
        monkeypatch.setenv("RAY_MR_KEY_FILE", "w.key.pem")
        text = call("seal", stdin=FOUND.to_json(show_secrets=True)).stdout
        for words, stdin in ((("open", "-"), text), (("open",), text)):
            result = call(*words, stdin=stdin)
            assert json.loads(result.stdout)["region"] == "eu-west-1"

    @pytest.mark.parametrize(
        ("pem", "message"),
        [
            (b"nothing", "not a private key in PEM"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private"),
        ],
    )
    def test_bad_key_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, pem: bytes, message: str
    ) -> None:
        """A file that is not a key ends with exit code 3, and is named."""
        text = call("seal", "--key", "w.pub.pem", stdin=FOUND.to_json(show_secrets=True)).stdout
        monkeypatch.setenv("CREDENTIALS", text.strip())
        Path("bad.pem").write_bytes(pem)
        result = call("open", "--key", "bad.pem")
        assert result.exit_code == 3
        assert "bad.pem" in result.stderr
        assert message in result.stderr

    def test_missing_key_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a key, the ways to give one are named."""
        text = call("seal", "--key", "w.pub.pem", stdin=FOUND.to_json(show_secrets=True)).stdout
        monkeypatch.setenv("CREDENTIALS", text.strip())
        result = call("open")
        assert result.exit_code == 3
        assert "RAY_MR_KEY_FILE" in result.stderr
        assert "RAY_MR_KEY_SECRET" in result.stderr

    def test_seal_never_repeats_bad_input(self) -> None:
        """Text that is not credentials may still be secret: it is not shown."""
        result = call("seal", "--key", "w.pub.pem", stdin=f'{{"secretAccessKey": "{SECRET}"}}')
        assert result.exit_code == 3
        assert SECRET not in result.output
