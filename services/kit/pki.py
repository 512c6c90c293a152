"""A small certificate authority for the services' mutual TLS: EC P-256, files in one directory."""

import datetime
import ipaddress
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.kit.failure import Code, ServiceError
from services.kit.tls import TlsFiles

_CA_DAYS = 3650
_CERTIFICATE_DAYS = 730
# Clocks of two hosts differ; a certificate must be valid on both right after it was made.
_BACKDATE = datetime.timedelta(hours=1)
_ALWAYS_REACHED_AS = ("localhost", "127.0.0.1", "::1")

Clock = Callable[[], datetime.datetime]


class PkiError(ServiceError):
    """The directory holds a CA that cannot be used to issue certificates."""

    code = Code.FAILED_PRECONDITION
    reason = "PKI_UNUSABLE"
    hint = "move the directory away to start with a new CA; every host then needs its new files"


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def tls_files(directory: Path, name: str) -> TlsFiles:
    """The files `create_pki` makes for one service."""
    return TlsFiles(
        ca=directory / "ca.crt",
        certificate=directory / f"{name}.crt",
        key=directory / f"{name}.key",
    )


def create_pki(
    directory: Path, names: Sequence[str], hosts: Sequence[str], *, now: Clock = _utc_now
) -> None:
    """Make a CA and one certificate per name, usable as server and as client.

    Writes ``ca.crt``, ``ca.key``, ``<name>.crt`` and ``<name>.key``; keys have mode 0600, the
    directory 0700. Each certificate is valid for its name, for `hosts` (DNS names or IP addresses)
    and for this host's loopback. A second call keeps the CA, so that the certificates of other
    hosts stay valid, and issues new certificates for `names`. A service's host needs only
    ``ca.crt`` and the service's own two files.

    Raises PkiError when the CA in the directory is damaged or expired, OSError when files
    cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca_key, ca = _load_or_create_ca(directory, now())
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _issue(name, hosts, key, ca_key, ca, now())
        _write(directory / f"{name}.key", _key_pem(key), 0o600)
        _write(directory / f"{name}.crt", certificate.public_bytes(_PEM), 0o644)


_PEM = serialization.Encoding.PEM


def _load_or_create_ca(
    directory: Path, now: datetime.datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    certificate_file, key_file = directory / "ca.crt", directory / "ca.key"
    if not certificate_file.exists() and not key_file.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        ca = _self_sign(key, now)
        _write(key_file, _key_pem(key), 0o600)
        _write(certificate_file, ca.public_bytes(_PEM), 0o644)
        return key, ca
    try:
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
        ca = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    except (OSError, ValueError, TypeError) as exc:
        raise PkiError(message=f"the CA in {directory} cannot be read: {exc}") from exc
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != ca.public_key():
        raise PkiError(message=f"{key_file} is not the key of {certificate_file}")
    if ca.not_valid_after_utc <= now:
        raise PkiError(message=f"{certificate_file} expired at {ca.not_valid_after_utc}")
    return loaded, ca


def _self_sign(key: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "v2c CA")])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + datetime.timedelta(days=_CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _issue(
    name: str,
    hosts: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    now: datetime.datetime,
) -> x509.Certificate:
    reached_as = dict.fromkeys([name, *hosts, *_ALWAYS_REACHED_AS])
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(
            min(now + datetime.timedelta(days=_CERTIFICATE_DAYS), ca.not_valid_after_utc)
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in reached_as]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically; mkstemp makes it 0600, so a key is never readable by others."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    os.replace(temporary, path)
