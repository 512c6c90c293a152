"""Errors on HTTP: RFC 9457 problem documents with the services' reason, hint and metadata."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from services.kit.errors import internal_error
from services.kit.failure import Code, Failure, ReportedError, ServiceError
from services.kit.redact import redactor

PROBLEM_TYPE = "application/problem+json"

# A refused login at vCenter or CloudStack must not look like a refused token of this API, so
# UNAUTHENTICATED and PERMISSION_DENIED from behind are a bad gateway.
_HTTP_STATUS: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.OUT_OF_RANGE: 400,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.ABORTED: 409,
    Code.UNIMPLEMENTED: 501,
    Code.UNAUTHENTICATED: 502,
    Code.PERMISSION_DENIED: 502,
    Code.UNAVAILABLE: 503,
    Code.RESOURCE_EXHAUSTED: 503,
    Code.CANCELLED: 503,
    Code.DEADLINE_EXCEEDED: 504,
}
_RETRY_AFTER_SECONDS = "2"


class SpecProblem(BaseModel):
    """One thing that is wrong, or looks wrong, in a spec."""

    source: str = Field(description="The `source` given with the spec.")
    line: int = Field(description="Line from 1; 0 when it has no position.")
    column: int = Field(description="Column from 1; 0 when it has no position.")
    field: str = Field(description="The key's path, such as `vms[1].migration.delta_interval`.")
    value: str = Field(description="What was found; empty when missing.")
    message: str
    hint: str = Field(description="The next step, for example the nearest valid key.")


class Candidate(BaseModel):
    """A migration that an ambiguous name may mean."""

    migration_id: str
    vm_name: str
    vm_moref: str
    stage: str
    status: str


class ProblemDocument(BaseModel):
    """An error. Programs decide by `reason`; `message` and `hint` are for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "reason": "MIGRATION_NOT_FOUND",
                    "message": "no migration of a machine named web-9",
                    "hint": "list the migrations with GET /migration/jobs",
                    "retryable": False,
                    "metadata": {"vm": "web-9"},
                    "request_id": "5c1f0e8c2f6c4b21",
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str = Field(description="The name of the HTTP status.")
    status: int = Field(description="The HTTP status.")
    reason: str = Field(description="Stable name of the error, in capitals.")
    message: str = Field(description="One paragraph for a person.")
    hint: str = Field(default="", description="The next step; may be empty.")
    retryable: bool = Field(
        default=False, description="The same request may succeed later without any change."
    )
    metadata: dict[str, str] = Field(default_factory=dict)
    request_id: str = Field(
        default="", description="Id of the request in the logs of all services."
    )
    errors: list[SpecProblem] = Field(
        default_factory=list, description="What is wrong in a spec (SPEC_INVALID)."
    )
    candidates: list[Candidate] = Field(
        default_factory=list, description="What an ambiguous name may mean (AMBIGUOUS_VM)."
    )


class ApiError(ServiceError):
    """An error that the gateway itself raises: a class of it stands for each reason."""

    http_status: ClassVar[int]
    errors: Sequence[SpecProblem] = ()
    candidates: Sequence[Candidate] = ()


class TokenRequired(ApiError):
    """The request has no admin token."""

    http_status = 401
    code = Code.UNAUTHENTICATED
    reason = "TOKEN_REQUIRED"
    hint = "send it as `Authorization: Bearer TOKEN`; it was printed at the first start"


class TokenRefused(ApiError):
    """The request has a token that is not the admin token."""

    http_status = 401
    code = Code.UNAUTHENTICATED
    reason = "TOKEN_REFUSED"
    hint = TokenRequired.hint


class RequestInvalid(ApiError):
    """A parameter or the body of the request is not what this route takes."""

    http_status = 422
    code = Code.INVALID_ARGUMENT
    reason = "REQUEST_INVALID"
    hint = "GET /openapi.json describes what is accepted"


class SpecTooLarge(ApiError):
    """The spec in the request's body is larger than the gateway reads."""

    http_status = 413
    code = Code.INVALID_ARGUMENT
    reason = "SPEC_TOO_LARGE"
    hint = "submit the machines in several specs"


class SpecRejected(ApiError):
    """The spec has mistakes, listed in `errors` with their lines; or the body is not a spec."""

    http_status = 422
    code = Code.INVALID_ARGUMENT
    reason = "SPEC_INVALID"
    hint = "correct the lines in errors and submit the spec again"

    def __init__(
        self, message: str, *, hint: str | None = None, errors: Sequence[SpecProblem] = ()
    ) -> None:
        super().__init__(message, hint=hint)
        self.errors = errors


class VmAmbiguous(ApiError):
    """The name, moref or id in the path fits several migrations, listed in `candidates`."""

    http_status = 409
    code = Code.FAILED_PRECONDITION
    reason = "AMBIGUOUS_VM"
    hint = "use the moref or the migration id of one of the candidates"

    def __init__(self, message: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(message)
        self.candidates = candidates


class HttpRefusal(ReportedError):
    """What the HTTP framework refuses by itself; the reason is the name of the HTTP status."""

    def __init__(self, http_status: int, message: str) -> None:
        reason = _title(http_status).upper().replace(" ", "_").replace("-", "_")
        hint = "GET /openapi.json describes this API"
        super().__init__(Failure(reason, message, Code.FAILED_PRECONDITION, hint))
        self.http_status = http_status


def problem_response(error: ServiceError, request_id: str) -> JSONResponse:
    """The problem document of an error, with the HTTP status that fits its code."""
    own = error if isinstance(error, ApiError) else None
    if isinstance(error, ApiError | HttpRefusal):
        status = error.http_status
    else:
        status = _HTTP_STATUS.get(error.code, 500)
    headers = {}
    if error.retryable and status in (503, 504):
        headers["Retry-After"] = _RETRY_AFTER_SECONDS
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="v2c"'
    document = ProblemDocument(
        title=_title(status),
        status=status,
        reason=error.reason,
        message=redactor.text(error.message),
        hint=redactor.text(error.hint),
        retryable=error.retryable,
        metadata={key: str(redactor.item(key, value)) for key, value in error.metadata.items()},
        request_id=request_id,
        errors=list(own.errors) if own else [],
        candidates=list(own.candidates) if own else [],
    )
    return JSONResponse(
        document.model_dump(), status_code=status, headers=headers, media_type=PROBLEM_TYPE
    )


async def on_service_error(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's handler of ServiceError."""
    if not isinstance(exc, ServiceError):
        raise TypeError(f"not a ServiceError: {type(exc).__name__}") from exc
    return problem_response(exc, request.scope.get("v2c.request_id", ""))


async def on_unexpected(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's handler of everything else: the caller gets the id of its log line, no more."""
    return problem_response(internal_error(exc), request.scope.get("v2c.request_id", ""))


async def on_http_exception(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's handler of its own 404, 405 and the like."""
    if not isinstance(exc, HTTPException):
        raise TypeError(f"not an HTTPException: {type(exc).__name__}") from exc
    error = HttpRefusal(exc.status_code, f"{request.method} {request.url.path}: {exc.detail}")
    response = await on_service_error(request, error)
    response.headers.update(exc.headers or {})
    return response


async def on_invalid_request(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's handler of parameters and bodies that do not fit their model."""
    if not isinstance(exc, RequestValidationError):
        raise TypeError(f"not a RequestValidationError: {type(exc).__name__}") from exc
    mistakes = "; ".join(f"{_location(each)}: {each['msg']}" for each in exc.errors())
    return await on_service_error(request, RequestInvalid(mistakes))


def _location(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"])


def _title(status: int) -> str:
    # http.HTTPStatus renamed 413 and 422 between Python versions; ours stay.
    fixed = {413: "Content Too Large", 422: "Unprocessable Content"}
    return fixed.get(status) or _phrase(status)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
