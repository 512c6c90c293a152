"""A password on its way from a worker's order to the pipe of nbdkit."""


class Password:
    """Hides a password: its repr is masked, and `dataclasses.asdict` does not reach the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The password itself, for the pipe and for nothing else."""
        return self._text

    def __repr__(self) -> str:
        return "***"
