"""The files in which a disk agent keeps transfers and conversions, also those of older agents."""

import json
from pathlib import Path

from services.disk_agent.conversions.conversion import Conversion, ConversionRequest
from services.disk_agent.conversions.store import ConversionStore
from services.disk_agent.resources.record import State
from services.disk_agent.servicers.messages import conversion_to_proto, transfer_to_proto
from services.disk_agent.transfer_failures import TargetFull
from services.disk_agent.transfers.store import TransferStore
from services.disk_agent.transfers.transfer import Transfer
from services.disk_agent.worker.modes import Mode
from services.disk_agent.worker.order import NbdSpec, TransferOrder
from services.kit.failure import Code, Failure

ORDER = TransferOrder("a", Mode.FULL, NbdSpec("nbd:"), "/pool/a.qcow2", 1 << 20, "vm-1", "s", 0)
FAILURE = TargetFull("the pool is full", metadata={"free_bytes": "12"}).failure


def transfer(failure: Failure) -> Transfer:
    return Transfer(ORDER, State.FAILED, 7, 1.0, failure=failure, end_time=2.0)


def conversion(failure: Failure) -> Conversion:
    request = ConversionRequest("c", (Path("/pool/a.qcow2"),))
    return Conversion(request, State.FAILED, 7, 1.0, Path("/log"), failure=failure, end_time=2.0)


def without_code(path: Path) -> None:
    """Change a file to what an older agent, without codes, wrote."""
    content = json.loads(path.read_text())
    del content["failure"]["code"]
    path.write_text(json.dumps(content))


def test_a_record_keeps_all_of_a_failure(tmp_path: Path) -> None:
    transfers, conversions = TransferStore(tmp_path), ConversionStore(tmp_path, tmp_path)
    transfers.save(transfer(FAILURE))
    conversions.save(conversion(FAILURE))
    [(_, kept)] = transfers.load()
    [(_, converted)] = conversions.load()
    assert kept == transfer(FAILURE)
    assert converted == conversion(FAILURE)


def test_a_failure_in_a_file_of_an_older_agent_is_understood(tmp_path: Path) -> None:
    transfers, conversions = TransferStore(tmp_path), ConversionStore(tmp_path, tmp_path)
    transfers.save(transfer(FAILURE))
    conversions.save(conversion(FAILURE))
    [(path, _)] = transfers.load()
    without_code(path)
    [(path, _)] = conversions.load()
    without_code(path)
    [(_, kept)] = transfers.load()
    [(_, converted)] = conversions.load()
    expected = Failure(
        "TARGET_FULL", "the pool is full", Code.UNKNOWN, FAILURE.hint, False, {"free_bytes": "12"}
    )
    assert kept is not None
    assert kept.failure == expected
    assert converted is not None
    assert converted.failure == expected


def test_messages_carry_all_of_a_failure() -> None:
    for found in (
        transfer_to_proto(transfer(FAILURE)).failure,
        conversion_to_proto(conversion(FAILURE)).failure,
    ):
        assert (found.reason, found.code) == ("TARGET_FULL", "RESOURCE_EXHAUSTED")
        assert (found.message, found.hint) == ("the pool is full", TargetFull.hint)
        assert dict(found.metadata) == {"free_bytes": "12"}
        assert not found.retryable
