"""A worker with trusted keys runs signed code and no other, whatever its engine says."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.worker.conftest import StartWorker
from tests.worker.fake_engine import FakeEngine, Stored
from tests.worker.keys import key_files, private_pem, public_pem
from windlass.client import signing
from windlass.client.signing import SigningKey
from windlass.runtimes.port import digest_of
from windlass.v1 import common_pb2
from windlass.worker import trust
from windlass.worker.modules import Claims, Untrusted
from windlass.worker.settings import BadSettings
from windlass.worker.trust import trusted_keys

CODE = b"input + 1"
DIGEST = digest_of(CODE)
MINE = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The operator's file: two keys with a remark between them."""
    file = tmp_path / "trusted.pem"
    file.write_bytes(public_pem(Ed25519PrivateKey.generate()) + b"# the build machine\n" + public_pem(MINE))
    return file


def claim(key: Ed25519PrivateKey, digest: str = DIGEST) -> tuple[bytes, bytes]:
    made = SigningKey(key).sign(digest)
    return made.public_key, made.signature


def message(key: Ed25519PrivateKey, digest: str = DIGEST) -> common_pb2.ModuleSignature:
    return SigningKey(key).sign(digest)


def test_client_and_worker_mean_the_same_words() -> None:
    assert signing.DOMAIN == trust.DOMAIN == b"windlass module v1\n"


async def test_one_good_signature_among_others_is_enough(keys: Path) -> None:
    trusted = trusted_keys(keys)

    async def claims(digest: str) -> Claims:
        return [claim(OTHER), (b"", b""), claim(MINE)]

    assert (len(trusted), trusted.approved(DIGEST)) == (2, False)
    await trusted.approve(DIGEST, claims)
    assert trusted.approved(DIGEST)
    assert not trusted.approved(digest_of(b"other code"))


_PUBLIC = MINE.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([], "it is not signed"),
        ([claim(OTHER)], "none of its 1 signatures is by a trusted key"),
        ([claim(MINE, digest_of(b"other code"))], "not one of this module"),
        ([(_PUBLIC, MINE.sign(DIGEST.encode()))], "not one of this module"),  # without the words before it
        ([(_PUBLIC, MINE.sign(trust.DOMAIN + bytes.fromhex(DIGEST)))], "not one of this module"),
        ([(_PUBLIC, claim(OTHER)[1])], "not one of this module"),
        ([(_PUBLIC, b"")], "not one of this module"),
        ([claim(OTHER)] * 10_000 + [claim(MINE)], "none of its 64"),
    ],
)
async def test_anything_else_is_refused_and_says_what_to_do(keys: Path, claims: Claims, words: str) -> None:
    async def given(digest: str) -> Claims:
        return claims

    trusted = trusted_keys(keys)
    with pytest.raises(Untrusted, match=words) as refusal:
        await trusted.approve(DIGEST, given)
    assert DIGEST in str(refusal.value)
    assert "windlass modules sign" in str(refusal.value)
    assert not trusted.approved(DIGEST)


_ELLIPTIC = generate_private_key(SECP256R1()).public_key()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no PEM public key"),
        (b"ssh-ed25519 AAAA me@here", "no PEM public key"),
        (private_pem(MINE), "a PRIVATE KEY, not a PUBLIC KEY"),
        (_ELLIPTIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "no Ed25519 key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "block 1 cannot be read"),
        (public_pem(MINE) + public_pem(OTHER)[:60], "has no end"),
    ],
)
def test_a_file_that_is_no_list_of_keys_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    file = tmp_path / "trusted.pem"
    file.write_bytes(text)
    with pytest.raises(BadSettings, match=words):
        trusted_keys(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="No such file"):
        trusted_keys(tmp_path / "nowhere.pem")


def code_of(stored: Stored) -> str:
    assert stored.result is not None
    return stored.result.failure.code if stored.result.HasField("failure") else stored.result.output.decode()


async def ended(engine: FakeEngine, stored: Stored) -> str:
    await engine.until(lambda: stored.result is not None)
    return code_of(stored)


async def test_signed_code_runs_and_unsigned_fails_for_good(
    engine: FakeEngine, start_worker: StartWorker, keys: Path
) -> None:
    engine.signatures[DIGEST] = [message(OTHER), message(MINE)]
    await start_worker(engine.address, trusted_keys=keys)
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"1")) == "2"
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"2")) == "3"
    foreign = engine.submit("javascript", code=b"'foreign'")
    assert await ended(engine, foreign) == "MODULE_UNTRUSTED"
    assert foreign.result is not None
    assert foreign.result.failure.retryable is False
    assert digest_of(b"'foreign'") in foreign.result.failure.message


async def test_a_signature_that_comes_later_counts(engine: FakeEngine, start_worker: StartWorker, keys: Path) -> None:
    await start_worker(engine.address, trusted_keys=keys)
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"1")) == "MODULE_UNTRUSTED"
    engine.signatures[DIGEST] = [message(MINE)]
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"1")) == "2"


async def test_an_engine_that_lies_about_the_code_is_found_out(
    engine: FakeEngine, start_worker: StartWorker, keys: Path
) -> None:
    engine.signatures[DIGEST] = [message(MINE)]
    await start_worker(engine.address, trusted_keys=keys)
    stored = engine.submit("javascript", module_digest=DIGEST, input=b"1")
    engine.modules[DIGEST] = b"'foreign'"
    assert await ended(engine, stored) == "MODULE_MISSING"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", DIGEST.upper()])
async def test_a_task_that_names_no_module_is_refused(
    engine: FakeEngine, start_worker: StartWorker, keys: Path, digest: str
) -> None:
    await start_worker(engine.address, trusted_keys=keys)
    stored = engine.submit("javascript", module_digest=digest, handler="x", input=b"1")
    assert await ended(engine, stored) == "MODULE_UNTRUSTED"


async def test_code_on_this_machines_disk_is_not_signed_by_being_there(
    engine: FakeEngine, start_worker: StartWorker, keys: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    _, running = await start_worker(engine.address, cache_folder=cache)
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"1")) == "2"
    running.cancel()
    assert (cache / DIGEST).exists()
    await start_worker(engine.address, cache_folder=cache, trusted_keys=keys)
    engine.sessions.clear()  # what is submitted now goes to the new one
    await engine.until(lambda: engine.sessions)
    assert await ended(engine, engine.submit("javascript", code=CODE, input=b"1")) == "MODULE_UNTRUSTED"


async def test_handlers_need_no_signature(engine: FakeEngine, start_worker: StartWorker, keys: Path) -> None:
    await start_worker(engine.address, trusted_keys=keys, standard_handlers=True)
    stored = engine.submit("python", handler="log.write", input=b'{"message": "hello"}')
    assert await ended(engine, stored) == "null"


def test_key_files_are_read_back(tmp_path: Path) -> None:
    private, public = key_files(tmp_path, "mine")
    made = SigningKey.load(private)
    assert len(trusted_keys(public)) == 1
    assert len(made.public_key) == 32


@pytest.mark.parametrize(("text", "words"), [(public_pem(MINE), "no PEM private key"), (b"nonsense", "genpkey")])
def test_a_file_that_cannot_sign_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(text)
    with pytest.raises(signing.BadKey, match=words):
        SigningKey.load(file)
