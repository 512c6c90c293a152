"""Refusals, with the error codes of CloudStack's ``ApiErrorCode``."""

from __future__ import annotations

from typing import Final

UNAUTHORIZED: Final = 401
PARAMETER: Final = 431
UNSUPPORTED_ACTION: Final = 432
INTERNAL: Final = 530
CAPACITY: Final = 533
NETWORK: Final = 537


class ApiError(Exception):
    """A command was refused: ``code`` is both the HTTP status and the ``errorcode``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def parameter_error(text: str) -> ApiError:
    """A refusal as the server's ``InvalidParameterValueException`` gives it (431)."""
    return ApiError(PARAMETER, text)


def internal_error(text: str) -> ApiError:
    """A refusal as the server's ``CloudRuntimeException`` gives it (530)."""
    return ApiError(INTERNAL, text)
