"""What is wrong with a file a user wrote: collected, positioned, raised together."""

from dataclasses import dataclass

__all__ = ["ConfigError", "Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a config or spec file, with all that a user needs to correct it.

    `line` and `column` count from 1; 0 means that the problem has no position (a missing file).
    `field` is the key's path, as ``vms[1].migration.delta_interval``; "" is the file as a whole.
    `value` is what was found, "" when there is nothing to show or it may be a secret.
    `hint` is the next step, a sentence.
    """

    source: str
    line: int
    column: int
    field: str
    value: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        position = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        where = f"{position}: {self.field}" if self.field else position
        text = f"{where}: {self.message}"
        if not self.hint:
            return text
        return f"{text.rstrip('.')}. {self.hint}"


class ConfigError(Exception):
    """Every problem found in one go; `str()` is one line per problem."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        if not problems:
            raise ValueError("a ConfigError needs at least one problem")
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
