"""The command line that serves a disk through nbdkit."""

from pathlib import Path

import pytest

from services.disk_agent.transfer_failures import NbdkitFilterMissing
from services.disk_agent.worker import nbdkit
from services.disk_agent.worker.order import VddkSpec


def test_large_reads_of_nbdkits_own_plugin_are_split(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether or not this host has the plugin."""
    installed = nbdkit.Nbdkit("1.32", native_vddk=True, python_plugin=True)
    spec = VddkSpec("vc", "u", "t", "/vddk", "vm-1", "snapshot-1", "[ds] a/a.vmdk")
    paths = (tmp_path / "s", tmp_path / "p", 3)
    monkeypatch.setattr(nbdkit, "has_filter", lambda name: True)
    small = nbdkit.vddk_command(spec, installed, *paths, read_bytes=2 << 20)
    assert "--filter=blocksize" not in small
    large = nbdkit.vddk_command(spec, installed, *paths, read_bytes=4 << 20)
    assert large.index("--filter=blocksize") + 1 == large.index("vddk")
    assert f"maxdata={2 << 20}" in large
    monkeypatch.setattr(nbdkit, "has_filter", lambda name: False)
    with pytest.raises(NbdkitFilterMissing, match="blocksize") as caught:
        nbdkit.vddk_command(spec, installed, *paths, read_bytes=4 << 20)
    assert "package" in caught.value.hint
