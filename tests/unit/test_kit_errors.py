import json

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from grpc.aio import AioRpcError, Metadata

from services.kit.details import DetailedError
from services.kit.errors import RemoteError, to_status
from services.kit.failure import Code, Failure, ServiceError
from services.kit.redact import redactor


class DiskMissingError(ServiceError):
    code = Code.NOT_FOUND
    reason = "DISK_MISSING"
    hint = "look at the VM's disks"


class LoginRefusedError(ServiceError):
    code = Code.UNAUTHENTICATED
    reason = "LOGIN_REFUSED"


def _arrived(exc: BaseException) -> RemoteError:
    """The error as a client receives it."""
    status = to_status(exc)
    received = AioRpcError(
        code=status.code,
        initial_metadata=Metadata(),
        trailing_metadata=Metadata(*status.trailing_metadata),
        details=status.details,
    )
    return RemoteError.from_rpc_error(received, peer="disk agent")


def test_everything_of_an_error_survives_the_wire() -> None:
    error = _arrived(DiskMissingError(message="web-1 has no disk 2000", metadata={"disk": "2000"}))
    assert (error.code, error.reason) == (Code.NOT_FOUND, "DISK_MISSING")
    assert error.message == "web-1 has no disk 2000"
    assert error.metadata == {"disk": "2000"}
    assert error.hint == "look at the VM's disks"
    assert error.retryable is False
    assert error.peer == "disk agent"


def test_an_instance_overrides_what_its_class_fixes() -> None:
    error = _arrived(DiskMissingError(message="m", retryable=True, hint="wait"))
    assert (error.retryable, error.hint) == (True, "wait")
    assert (DiskMissingError.retryable, DiskMissingError.hint) == (False, "look at the VM's disks")


def test_details_survive_the_wire_and_a_service_between() -> None:
    failure = DiskMissingError("gone", metadata={"disk": "2000"}).failure
    detail = duration_pb2.Duration(seconds=42)
    arrived = _arrived(_arrived(DetailedError(failure, detail)))
    assert arrived.failure == failure
    assert arrived.detail(duration_pb2.Duration) == detail
    assert arrived.detail(timestamp_pb2.Timestamp) is None
    assert _arrived(DiskMissingError("gone")).detail(duration_pb2.Duration) is None


def test_passing_an_error_on_twice_changes_nothing() -> None:
    once = _arrived(DiskMissingError(message="m", metadata={"a": "b"}, retryable=True))
    twice = _arrived(once)
    for name in ("code", "reason", "message", "metadata", "retryable", "hint"):
        assert getattr(twice, name) == getattr(once, name)


def test_an_unexpected_exception_reports_only_a_log_id() -> None:
    error = _arrived(KeyError("the password is hunter2"))
    assert error.code is Code.INTERNAL
    assert error.reason == "INTERNAL"
    assert "hunter2" not in error.message + error.hint
    assert error.metadata["log_id"] in error.message


def test_registered_secrets_are_masked_on_the_wire() -> None:
    redactor.register("s3cr3t-of-errors")
    error = _arrived(
        LoginRefusedError(
            message="login with s3cr3t-of-errors was refused",
            metadata={"tried": "s3cr3t-of-errors"},
            hint="not s3cr3t-of-errors",
        )
    )
    assert error.message == "login with *** was refused"
    assert error.metadata == {"tried": "***"}
    assert error.hint == "not ***"


def test_long_texts_stay_below_the_metadata_limit() -> None:
    status = to_status(
        DiskMissingError(
            message="m" * 100_000,
            metadata={"tool_output": "o" * 100_000},
            hint="h" * 100_000,
        )
    )
    assert len(status.details) + sum(len(value) for _, value in status.trailing_metadata) < 8000


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (Code.UNAVAILABLE, "REMOTE_UNAVAILABLE", True),
        (Code.DEADLINE_EXCEEDED, "REMOTE_DEADLINE_EXCEEDED", True),
        (Code.UNIMPLEMENTED, "REMOTE_UNIMPLEMENTED", False),
        (Code.RESOURCE_EXHAUSTED, "REMOTE_RESOURCE_EXHAUSTED", False),
    ],
)
def test_what_comes_from_grpc_itself_names_the_peer(
    code: Code, reason: str, retryable: bool
) -> None:
    received = AioRpcError(
        grpc.StatusCode[code.name], Metadata(), Metadata(), details="connection refused"
    )
    error = RemoteError.from_rpc_error(received, peer="disk agent")
    assert (error.code, error.reason, error.retryable) == (code, reason, retryable)
    assert error.message == "disk agent: connection refused"
    assert code not in (Code.UNAVAILABLE, Code.UNIMPLEMENTED) or "disk agent" in (error.hint)


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (
            "unix:/run/x.sock: connect failed: addr: unix:/run/x.sock error: No such file or "
            "directory",
            "at unix:/run/x.sock: nothing listens there (No such file or directory)",
        ),
        (
            "ipv6:%5B::1%5D:7: Failed to connect to remote host: Connection refused",
            "at [::1]:7: nothing listens there (Connection refused)",
        ),
        (
            "ipv4:10.0.0.1:7: Failed to connect to remote host: No route to host",
            "at 10.0.0.1:7: No route to host",
        ),
        (
            "ipv4:10.0.0.1:7: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:"
            "1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get "
            "local issuer certificate: OK",
            "at 10.0.0.1:7: its certificate is not of our CA or not for this name "
            "(TLS: CERTIFICATE_VERIFY_FAILED)",
        ),
    ],
)
def test_an_unreachable_peer_is_reported_with_address_and_cause(details: str, message: str) -> None:
    received_text = f"failed to connect to all addresses; last error: UNKNOWN: {details}"
    received = AioRpcError(
        grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details=received_text
    )
    error = RemoteError.from_rpc_error(received, peer="disk agent")
    assert error.message == f"disk agent cannot be reached {message}"


def test_foreign_details_do_not_hide_the_status() -> None:
    trailers = Metadata(("grpc-status-details-bin", b"\xff\xff not protobuf"))
    received = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), trailers, details="bad gateway")
    error = RemoteError.from_rpc_error(received, peer="p")
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "REMOTE_UNAVAILABLE")


def test_a_reason_must_be_upper_snake() -> None:
    with pytest.raises(ValueError, match="UPPER_SNAKE"):
        type("DiskMissing", (ServiceError,), {"reason": "disk missing"})


def test_codes_are_those_of_grpc() -> None:
    numbers = {code.name: code.value[0] for code in grpc.StatusCode}
    assert {"OK": 0} | {code.name: code.value for code in Code} == numbers


def test_a_failure_survives_json_and_older_records_have_no_code() -> None:
    failure = DiskMissingError("m", metadata={"disk": "2000"}, retryable=True).failure
    assert Failure.from_wire(json.loads(json.dumps(failure.to_wire()))) == failure
    older = {"reason": "GONE", "message": "m", "metadata": {}, "retryable": False}
    assert Failure.from_wire(older) == Failure("GONE", "m")
    with pytest.raises(ValueError, match="without message"):
        Failure.from_wire({"reason": "GONE", "metadata": {}, "retryable": False})


@pytest.mark.parametrize("text", ["x" * 5000, "ошибка " * 800, "错误" * 2000])
def test_trailers_stay_small_in_any_script(text: str) -> None:
    """A header escapes each byte beyond ASCII as three; a client takes 8 KiB unless configured."""
    status = to_status(DiskMissingError(text, hint=text, metadata={"detail": text}))
    header = sum(1 if byte < 128 else 3 for byte in status.details.encode())
    (packed,) = (value for _, value in status.trailing_metadata)
    assert header <= 1510
    assert header + len(packed) * 4 / 3 < 6500
    assert text.startswith(status.details.removesuffix("…"))
    assert len(status.details) > 150
