"""``python -m lab.guest``: builds in advance what a lab with a converted guest needs."""

import sys
import tempfile
from pathlib import Path

from lab.guest import GuestBuildError, build_micro_guest
from lab.guest.appliance import build_appliance


def main() -> int:
    """Fill the cache; prints what is missing, if anything. Returns the exit status."""
    try:
        with tempfile.TemporaryDirectory() as scratch:
            build_micro_guest(Path(scratch) / "guest.raw", "bios")
            build_micro_guest(Path(scratch) / "guest-uefi.raw", "uefi")
        print(f"libguestfs appliance: {build_appliance()}")
    except GuestBuildError as error:
        print(f"lab.guest: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
