"""An ambiguous selector's candidates and a spec's mistakes in a status: as many as fit."""

import pytest

from services.config import Problem
from services.kit.details import DetailedError
from services.kit.errors import to_status
from services.orchestrator.errors import AmbiguousMigration, Candidate, SpecInvalid
from services.orchestrator.stages import Stage, State
from services.orchestrator.translate import ambiguity_message, spec_invalid_message

# What a gRPC client takes of trailers unless it is configured for more.
_CLIENT_LIMIT_BYTES = 8 * 1024


def _ambiguous(count: int) -> AmbiguousMigration:
    found = (
        Candidate(f"{n:032x}", f"web {n:074}", f"vm-{n}", Stage.AWAITING_SHUTDOWN_ACTION, state)
        for n, state in zip(range(count), [State.ROLLED_BACK] * count, strict=True)
    )
    return AmbiguousMigration("web", tuple(found))


def _invalid(count: int) -> SpecInvalid:
    return SpecInvalid(
        tuple(
            Problem("fleet.yaml", n, 3, f"vms[{n}].target.cloudstack.zoneid", "zone", "x" * 80, "y")
            for n in range(1, count + 1)
        )
    )


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_candidates_fit_into_a_status_and_the_rest_is_counted(count: int) -> None:
    exc = _ambiguous(count)
    details = ambiguity_message(exc)
    status = to_status(DetailedError(exc.failure, details))
    size = sum(len(key) + len(value) for key, value in status.trailing_metadata)
    assert size + len(status.details) < _CLIENT_LIMIT_BYTES
    assert len(details.candidates) + details.more_count == count
    assert [each.vm_moref for each in details.candidates] == [
        f"vm-{n}" for n in range(len(details.candidates))
    ]
    assert details.more_count == 0 or len(details.candidates) > 20


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_mistakes_fit_into_a_status_and_the_rest_is_counted(count: int) -> None:
    exc = _invalid(count)
    details = spec_invalid_message(exc)
    status = to_status(DetailedError(exc.failure, details))
    size = sum(len(key) + len(value) for key, value in status.trailing_metadata)
    assert size + len(status.details) < _CLIENT_LIMIT_BYTES
    assert len(details.problems) + details.more_count == count
    assert details.more_count == 0 or len(details.problems) > 10


def test_one_mistake_too_large_for_a_status_is_counted() -> None:
    exc = SpecInvalid((Problem("s.yaml", 1, 1, "vm", "", "m" * 10_000),))
    details = spec_invalid_message(exc)
    assert (len(details.problems), details.more_count) == (0, 1)
