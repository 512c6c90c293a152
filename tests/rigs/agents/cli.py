"""The v2c command in a folder of its own, within this process or in one of its own."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import main

ROOT = Path(__file__).parents[3]


ID = "b85761ad-bc7e-5170-92bf-7001d40b491f"


IDS = dict.fromkeys(("zoneid", "clusterid", "storageid", "networkid", "serviceofferingid"), ID)


@dataclass
class Result:
    status: int
    out: str
    err: str


@dataclass
class Cli:
    """Runs v2c in a folder that has config.yaml and web.yaml."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        path = f"{ROOT}:{ROOT / 'proto'}"
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "120"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str) -> Result:
        """In a thread of this process: a new one takes a second to import everything."""
        # What was printed while the fakes were set up is not the command's.
        self.capsys.readouterr()
        status = await asyncio.to_thread(main, arguments)
        printed = self.capsys.readouterr()
        return Result(status, printed.out, printed.err)

    async def run(self, *arguments: str) -> Result:
        """In a process of its own, as `v2c run` needs it for its signals."""
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Result(process.returncode, out.decode(), err.decode())

    def config(self, **sections: Any) -> None:
        document = {
            "vcenter": {"host": "vc", "user": "root", "password": "x"},
            "migration": {"vddk_path": "vddk", "control_dir": "c"},
            "cloudstack": {"endpoint": "cs", "api_key": "a", "secret_key": "b"},
            "cloudstack_defaults": IDS,
            **sections,
        }
        (self.folder / "config.yaml").write_text(yaml.safe_dump(document))

    def spec(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
