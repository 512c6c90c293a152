"""Which certificate of vCenter is trusted: a CA bundle, a pinned leaf, the system's CAs, or any.

pyVmomi's own `thumbprint` and `serverPemCert` are not used: its version probe verifies against the
system's CAs regardless, so both fail on self-signed certificates, and with
`disableSslCertValidation` a wrong thumbprint still connects.
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
    """Which certificate is trusted: that of `thumbprint` (SHA-1 or SHA-256, case and colons
    ignored), else what `ca_file` (PEM) signed, else what the system's CAs did. `insecure` accepts
    any.
    """

    thumbprint: str = ""
    ca_file: Path | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Trusted:
    """The context every connection to vCenter uses, and the certificate it was built for."""

    context: ssl.SSLContext
    leaf_der: bytes

    @property
    def thumbprint_sha1(self) -> str:
        """The certificate's SHA-1 fingerprint as VDDK wants it: upper case, with colons."""
        return _colons(hashlib.sha1(self.leaf_der, usedforsecurity=False).hexdigest())


def establish(host: str, port: int, trust: Trust, timeout_seconds: float) -> Trusted:
    """Shake hands once, as `trust` demands. Blocking.

    Raises VCenterUnreachable when there is no answer, VCenterUntrusted when the certificate is
    not the trusted one or the configuration cannot be used.
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
    except OSError as error:  # ssl.SSLError is one.
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
    # The leaf itself becomes the anchor: a CA-signed leaf needs PARTIAL_CHAIN for that, and the
    # pin proves more than the host's name, which self-signed certificates often lack.
    context = ssl.create_default_context(cadata=ssl.DER_cert_to_PEM_cert(leaf))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return Trusted(context, leaf)


def _leaf(host: str, port: int, context: ssl.SSLContext, timeout_seconds: float) -> bytes:
    """The DER of the certificate the server shows, as far as `context` verifies it."""
    try:
        with (
            socket.create_connection((host, port), timeout=timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            leaf = tls.getpeercert(binary_form=True)
    except OSError as error:  # ssl.SSLError, gaierror and timeouts are OSErrors.
        raise connection_failed(error, f"{host}:{port}") from error
    if leaf is None:
        raise VCenterUnreachable(message=f"vCenter {host}:{port} shows no certificate")
    return leaf


def _colons(fingerprint: str) -> str:
    return ":".join(fingerprint[i : i + 2] for i in range(0, len(fingerprint), 2)).upper()
