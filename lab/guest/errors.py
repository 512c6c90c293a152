"""Errors of the micro-guest builder."""


class GuestBuildError(Exception):
    """A micro-guest cannot be built or booted; the message names the cause and the remedy."""


class MissingToolError(GuestBuildError):
    """A program or file is missing on the host; ``package`` is the Debian package with it."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(
            f"{what} is missing; install it with: apt-get install --no-install-recommends {package}"
        )
        self.what = what
        self.package = package
