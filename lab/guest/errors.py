"""Errors of the micro-guest builder."""


class GuestBuildError(Exception):
    """A micro-guest cannot be built or booted; the message says what to do about it."""


class MissingToolError(GuestBuildError):
    """A program or file of the host is missing; ``package`` is the Debian package that has it."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(
            f"{what} is missing; install it with: apt-get install --no-install-recommends {package}"
        )
        self.what = what
        self.package = package
