"""What goes wrong in a command, printed as one paragraph."""

from services.config import ConfigError
from services.kit.failure import ServiceError

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "CommandError",
    "UsageMistakeError",
    "paragraph",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
# What a shell reports for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked to; `hint` is the next step, a sentence."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageMistakeError(CommandError):
    """The command line itself is wrong: exit status 2."""


def paragraph(error: CommandError | ServiceError | ConfigError) -> str:
    """An error as a person reads it; a ConfigError is one line per problem."""
    if isinstance(error, ConfigError):
        return str(error)
    text = error.message.strip()
    if not error.hint:
        return text
    hint = error.hint.strip()
    return f"{text.rstrip('.')}. {hint[0].upper()}{hint[1:].rstrip('.')}."
