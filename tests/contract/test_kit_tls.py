import datetime
import stat
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.protobuf.wrappers_pb2 import StringValue
from grpc import StatusCode

from services.kit.channel import await_serving
from services.kit.errors import RemoteError
from services.kit.failure import Code
from services.kit.pki import PkiError, create_pki, tls_files
from services.kit.server import serving
from services.kit.tls import TlsFiles, TlsFilesError
from tests.rigs.fakes.kit_echo import Echo, EchoService


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    create_pki(directory, ["server", "client"], ["storage.example", "10.9.8.7"])
    return directory


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("foreign")
    create_pki(directory, ["client"], [])
    return directory


@pytest.mark.parametrize("place", ["tcp", "unix"])
async def test_two_sides_of_one_ca_talk(pki: Path, tmp_path: Path, place: str) -> None:
    listen = "127.0.0.1:0" if place == "tcp" else f"unix:{tmp_path}/echo.sock"
    client = tls_files(pki, "client")
    async with serving("echo", listen, tls_files(pki, "server"), EchoService().register) as address:
        await await_serving(str(address), client, timeout_seconds=10)
        async with Echo.connect(address, client).channel as channel:
            assert await Echo(channel).say("hello") == "hello"


async def _refused(address: object, tls: TlsFiles | None) -> RemoteError:
    async with Echo.connect(address, tls).channel as channel:
        with pytest.raises(RemoteError) as caught:
            await Echo(channel).say("hello")
    return caught.value


async def test_a_client_of_another_ca_is_refused(pki: Path, foreign: Path) -> None:
    # Trusts the right CA, so that it is the server who refuses.
    impostor = TlsFiles(
        ca=pki / "ca.crt", certificate=foreign / "client.crt", key=foreign / "client.key"
    )
    service = EchoService()
    async with serving(
        "echo", "127.0.0.1:0", tls_files(pki, "server"), service.register
    ) as address:
        assert (await _refused(address, impostor)).code is Code.UNAVAILABLE
    assert service.request_ids == []


async def test_a_server_of_another_ca_is_refused(pki: Path, foreign: Path) -> None:
    service = EchoService()
    async with serving(
        "echo", "127.0.0.1:0", tls_files(pki, "server"), service.register
    ) as address:
        error = await _refused(address, tls_files(foreign, "client"))
    assert error.code is Code.UNAVAILABLE
    assert "CA" in error.hint
    assert service.request_ids == []


async def test_a_client_without_certificate_is_refused(pki: Path) -> None:
    credentials = grpc.ssl_channel_credentials((pki / "ca.crt").read_bytes())
    service = EchoService()
    async with (
        serving("echo", "127.0.0.1:0", tls_files(pki, "server"), service.register) as address,
        grpc.aio.secure_channel(str(address), credentials) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Echo(channel).unary("Say")(StringValue(value="hello"), timeout=5)
        assert caught.value.code() is StatusCode.UNAVAILABLE
    assert service.request_ids == []


async def test_plain_text_to_a_tls_server_is_refused(pki: Path) -> None:
    async with serving(
        "echo", "127.0.0.1:0", tls_files(pki, "server"), EchoService().register
    ) as address:
        assert (await _refused(address, None)).code is Code.UNAVAILABLE


def test_keys_are_private_and_certificates_name_their_hosts(pki: Path) -> None:
    for key in pki.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    certificate = x509.load_pem_x509_certificate((pki / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"server", "storage.example", "localhost"} <= set(
        names.get_values_for_type(x509.DNSName)
    )
    assert {"10.9.8.7", "127.0.0.1", "::1"} <= {
        str(address) for address in names.get_values_for_type(x509.IPAddress)
    }


async def test_renewed_certificates_work_with_those_of_before(tmp_path: Path) -> None:
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1000)
    create_pki(tmp_path, ["server", "client"], [], now=lambda: long_ago)
    with pytest.raises(TlsFilesError, match="expired"):
        tls_files(tmp_path, "server").check()
    ca_before = (tmp_path / "ca.crt").read_bytes()
    create_pki(tmp_path, ["server", "client"], [])
    assert (tmp_path / "ca.crt").read_bytes() == ca_before
    async with (
        serving(
            "echo", "127.0.0.1:0", tls_files(tmp_path, "server"), EchoService().register
        ) as address,
        Echo.connect(address, tls_files(tmp_path, "client")).channel as channel,
    ):
        assert await Echo(channel).say("hello") == "hello"


def test_a_damaged_ca_is_not_replaced(tmp_path: Path) -> None:
    create_pki(tmp_path, [], [])
    (tmp_path / "ca.key").write_text("garbage")
    with pytest.raises(PkiError, match="cannot be read"):
        create_pki(tmp_path, ["server"], [])
    assert (tmp_path / "ca.key").read_text() == "garbage"


@pytest.mark.parametrize(
    ("field", "content", "problem"),
    [
        ("ca", None, "No such file"),
        ("certificate", "garbage", "no PEM certificate"),
        ("key", "garbage", "no PEM private key"),
        ("key", "client.key", "does not belong to the certificate"),
    ],
)
def test_a_bad_file_is_named_with_its_field(
    pki: Path, tmp_path: Path, field: str, content: str | None, problem: str
) -> None:
    bad = tmp_path / f"{field}.pem"
    if content is not None:
        source = pki / content
        bad.write_bytes(source.read_bytes() if source.exists() else content.encode())
    good = tls_files(pki, "server")
    files = {"ca": good.ca, "certificate": good.certificate, "key": good.key, field: bad}
    with pytest.raises(TlsFilesError, match=problem) as caught:
        TlsFiles(**files).check()
    assert caught.value.message.startswith(f"tls.{field}: {bad}: ")
    assert caught.value.metadata == {"field": field, "file": str(bad)}
