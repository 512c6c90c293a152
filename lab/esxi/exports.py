"""NBD export names of the lab's ESXi side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from lab.esxi.model import EsxiError

_NAME = re.compile(r"(?P<vddk>vddk:)?(?P<vm>[^/@]+)/(?P<key>\d+)(?:@(?P<snapshot>[^/@]+))?")


@dataclass(frozen=True)
class ExportName:
    """``[vddk:]<vm>/<key>[@<snapshot>]``; without a snapshot the live disk."""

    vm: str
    key: int
    snapshot: str | None = None
    through_vddk: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises EsxiError (``not_found``) for a name that has another form."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise EsxiError("not_found", f"no export {text!r}")
        return cls(match["vm"], int(match["key"]), match["snapshot"], match["vddk"] is not None)

    def __str__(self) -> str:
        prefix = "vddk:" if self.through_vddk else ""
        view = "" if self.snapshot is None else f"@{self.snapshot}"
        return f"{prefix}{self.vm}/{self.key}{view}"
