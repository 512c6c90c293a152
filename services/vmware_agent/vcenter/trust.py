"""How vCenter's certificate is verified: by a CA bundle, a thumbprint, the system's CAs, or not.

pyVmomi's own `thumbprint` and `serverPemCert` are not used. Its version probe ignores them and
verifies against the system's CAs, so self-signed certificates fail; with
`disableSslCertValidation` it connects even if the thumbprint differs.
"""

import hashlib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from services.vmware_agent.errors import VCenterUnreachable, VCenterUntrusted
from services.vmware_agent.vcenter.faults import connection_failed

_DIGESTS = {40: "sha1", 64: "sha256"}


@dataclass(frozen=True)
class Trust:
    """Which certificate is trusted.

    It is the one with `thumbprint` (SHA-1 or SHA-256, case and colons ignored), else one signed by
    a CA of `ca_file` (PEM), else one signed by the system's CAs. `insecure` accepts any.
    """

    thumbprint: str = ""
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Trusted:
    """The TLS context for all connections to vCenter, and the certificate it was made for."""

    context: ssl.SSLContext
    leaf_der: bytes

    @property
    def thumbprint_sha1(self) -> str:
        """The certificate's SHA-1 fingerprint in VDDK's format: upper case, with colons."""
        return _colons(hashlib.sha1(self.leaf_der, usedforsecurity=False).hexdigest())


def establish(host: str, port: int, trust: Trust, timeout_seconds: float) -> Trusted:
    """Make one TLS handshake and verify the certificate according to `trust`. Blocking.

    Raises VCenterUnreachable without an answer, VCenterUntrusted if the certificate is not trusted
    or the configuration cannot be used.
    """
    if trust.insecure:
        context = _unverified()
    elif trust.thumbprint:
        return _pinned(host, port, trust.thumbprint, timeout_seconds)
    else:
        context = _verified(trust.ca_file)
    return Trusted(context, _leaf(host, port, context, timeout_seconds))


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _verified(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # Includes ssl.SSLError.
        raise VCenterUntrusted(
            message=f"vcenter.ca_file {ca_file} cannot be used: {error}",
            hint="vcenter.ca_file must be a readable file with PEM certificates",
        ) from error


def _pinned(host: str, port: int, thumbprint: str, timeout_seconds: float) -> Trusted:
    wanted = thumbprint.replace(":", "").replace(" ", "").lower()
    digest = _DIGESTS.get(len(wanted))
    if digest is None:
        raise VCenterUntrusted(
            message=f"vcenter.thumbprint {thumbprint!r} is neither SHA-1 (40 hexadecimal digits) "
            "nor SHA-256 (64)"
        )
    leaf = _leaf(host, port, _unverified(), timeout_seconds)
    found = hashlib.new(digest, leaf, usedforsecurity=False).hexdigest()
    if found != wanted:
        raise VCenterUntrusted(
            message=f"the certificate of {host}:{port} has the {digest} fingerprint "
            f"{_colons(found)}, not vcenter.thumbprint {_colons(wanted)}",
            metadata={"found": _colons(found), "wanted": _colons(wanted)},
        )
    # The leaf certificate becomes the trust anchor, which for one signed by a CA needs
    # PARTIAL_CHAIN. The host name is not checked: the thumbprint is stronger evidence, and
    # self-signed certificates often lack the name.
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(leaf))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return Trusted(context, leaf)


def _leaf(host: str, port: int, context: ssl.SSLContext, timeout_seconds: float) -> bytes:
    """The server's certificate in DER, after `context` has verified it as it is configured to."""
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            leaf = tls.getpeercert(binary_form=True)
    except OSError as error:  # Includes ssl.SSLError, gaierror and timeouts.
        raise connection_failed(error, f"{host}:{port}") from error
    if leaf is None:
        raise VCenterUnreachable(message=f"vCenter {host}:{port} sent no certificate")
    return leaf


def _colons(fingerprint: str) -> str:
    return ":".join(fingerprint[i : i + 2] for i in range(0, len(fingerprint), 2)).upper()
