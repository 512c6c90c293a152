"""The bench runs: one round of each case on a tiny disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_CASES = ("copy", "latency", "delta", "digests", "verify", "resume", "two-disks", "rate")


@pytest.mark.slow
def test_each_case_writes_its_figures(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    chosen = [part for case in _CASES for part in ("--only", case)]
    places = ["--dir", str(tmp_path), "--json", str(figures)]
    subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", *chosen, *places],
        check=True,
        cwd=Path(__file__).parents[2],
    )
    content = json.loads(figures.read_text())
    cases = {name.split(":")[0] for name in content}
    assert cases == {
        "full copy",
        "full copy, 2 ms source",
        "delta",
        "digests",
        "verify-target",
        "resume",
        "two disks",
        "rate limit",
    }
    assert all(len(figure["runs"]) == 1 for figure in content.values())
