"""What a case found, on the screen and in build/bench.json."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Result:
    """One figure with its limit.

    `value` is the median of `runs`. `limit` is None for figures that are given for orientation;
    `at_least` makes it a lower limit. `detail` is shown beside it.
    """

    name: str
    value: float
    limit: float | None
    runs: Sequence[float]
    at_least: bool = False
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure keeps to its limit."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def median_result(
    name: str,
    runs: Sequence[float],
    limit: float | None,
    *,
    at_least: bool = False,
    detail: str = "",
) -> Result:
    """A result whose value is the median of its runs."""
    return Result(name, statistics.median(runs), limit, list(runs), at_least, detail)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Run by run: neighbours in time share whatever else the machine was doing."""
    return [own / other for own, other in zip(ours, theirs, strict=True)]


def show(results: Sequence[Result], console: Console) -> None:
    """Print all results as one table."""
    table = Table(title="Copy path")
    for column in ("figure", "value", "limit", "spread", ""):
        table.add_column(column, justify="left" if column in ("figure", "") else "right")
    for result in results:
        sign = "≥" if result.at_least else "≤"
        limit = "" if result.limit is None else f"{sign} {result.limit:g}"
        style = "" if result.met else "bold red"
        spread = f"{min(result.runs):.2f}-{max(result.runs):.2f}" if len(result.runs) > 1 else ""
        table.add_row(
            result.name, f"{result.value:.2f}", limit, spread, result.detail, style=style or None
        )
    console.print(table)


def write(results: Sequence[Result], path: Path) -> None:
    """Write the figures; those of cases that did not run this time are kept from the last."""
    content: dict[str, Mapping[str, object]] = {}
    if path.exists():
        content = json.loads(path.read_text())
    for result in results:
        content[result.name] = {
            "value": round(result.value, 4),
            "limit": result.limit,
            "at_least": result.at_least,
            "met": result.met,
            "runs": [round(run, 4) for run in result.runs],
            "detail": result.detail,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
