"""The simulator's self-signed certificate, made once and kept."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.vcenter.world.vm_state import write_atomically

_YEARS = 10


@dataclass(frozen=True)
class Certificate:
    """Files and fingerprints. Thumbprints are upper case with colons, as vSphere prints them."""

    ca_file: Path
    """The certificate alone, to trust or pin."""
    key_and_certificate: Path
    thumbprint_sha1: str
    thumbprint_sha256: str


def ensure_certificate(directory: Path) -> Certificate:
    """The certificate in ``directory``, created at first use for localhost and this host's name."""
    ca_file, pem = directory / "ca.pem", directory / "server.pem"
    if not (ca_file.exists() and pem.exists()):
        directory.mkdir(parents=True, exist_ok=True)
        certificate, key = _generate()
        write_atomically(pem, key + certificate, mode=0o600)
        write_atomically(ca_file, certificate, mode=0o644)
    der = ssl.PEM_cert_to_DER_cert(ca_file.read_text())
    return Certificate(
        ca_file=ca_file,
        key_and_certificate=pem,
        # VDDK and older tools use SHA-1. Here it only identifies the certificate.
        thumbprint_sha1=_colons(hashlib.sha1(der, usedforsecurity=False).hexdigest()),
        thumbprint_sha256=_colons(hashlib.sha256(der).hexdigest()),
    )


def _colons(digest: str) -> str:
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2)).upper()


def _generate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vcenter.lab.test")])
    today = datetime.now(UTC) - timedelta(days=1)
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("vcenter.lab.test"),
        x509.DNSName(socket.gethostname()[:63] or "localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today)
        .not_valid_after(today + timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
