"""Mutual TLS from three PEM files: with TLS, client and server both present a certificate."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from services.kit.failure import Code, ServiceError

Field = Literal["ca", "certificate", "key"]


class TlsFilesError(ServiceError):
    """One of the three files is missing, unreadable, expired or does not belong to the others.

    ``metadata["field"]`` is ca, certificate or key; ``metadata["file"]`` its path.
    """

    code = Code.FAILED_PRECONDITION
    reason = "TLS_FILES_INVALID"
    hint = "point the tls section to PEM files of one CA, or create them with `v2c pki init`"

    def __init__(self, field: Field, path: Path, problem: str) -> None:
        super().__init__(
            message=f"tls.{field}: {path}: {problem}",
            metadata={"field": field, "file": str(path)},
        )


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files: the CA both sides trust, this side's certificate (chain) and its key."""

    ca: Path
    certificate: Path
    key: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC server that refuses clients without a certificate of the CA.

        Raises TlsFilesError.
        """
        ca, certificate, key = self._checked()
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=ca, require_client_auth=True
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a gRPC client that presents its certificate. Raises TlsFilesError."""
        ca, certificate, key = self._checked()
        return grpc.ssl_channel_credentials(
            root_certificates=ca, private_key=key, certificate_chain=certificate
        )

    def check(self) -> None:
        """Read and check all three files. Raises TlsFilesError naming the field and the file."""
        self._checked()

    def _checked(self) -> tuple[bytes, bytes, bytes]:
        ca = _read("ca", self.ca)
        certificate = _read("certificate", self.certificate)
        key = _read("key", self.key)
        _load_certificate("ca", self.ca, ca)
        leaf = _load_certificate("certificate", self.certificate, certificate)
        if _public_bytes(_load_key(self.key, key)) != leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ):
            raise TlsFilesError(
                "key", self.key, f"does not belong to the certificate in {self.certificate}"
            )
        return ca, certificate, key


def _read(field: Field, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise TlsFilesError(field, path, exc.strerror or str(exc)) from exc


def _load_certificate(field: Field, path: Path, pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, IndexError) as exc:
        raise TlsFilesError(field, path, "holds no PEM certificate") from exc
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        raise TlsFilesError(field, path, f"expired at {certificate.not_valid_after_utc}")
    if certificate.not_valid_before_utc > now:
        raise TlsFilesError(field, path, f"is not valid before {certificate.not_valid_before_utc}")
    return certificate


def _load_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as exc:
        raise TlsFilesError("key", path, "holds no PEM private key without password") from exc


def _public_bytes(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
