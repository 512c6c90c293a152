"""Every error of the disk agent is a class of its own, with a meaning and a next step."""

from collections import Counter

import services.disk_agent.server
import services.disk_agent.worker.__main__  # noqa: F401 - for its classes
from services.disk_agent.conversions.failures import CAUSES, KnownCause
from services.kit.failure import Code, ServiceError, error_classes


def classes() -> list[type[ServiceError]]:
    return [kind for kind in error_classes() if kind.__module__.startswith("services.disk_agent")]


def test_each_reason_has_one_class() -> None:
    counts = Counter(kind.reason for kind in classes())
    assert [reason for reason, count in counts.items() if count > 1] == []


def test_each_class_has_a_meaning_a_code_and_a_next_step() -> None:
    assert [kind.__name__ for kind in classes() if not (kind.__doc__ and kind.hint)] == []
    assert [kind.__name__ for kind in classes() if kind.code is Code.UNKNOWN] == []


def test_each_known_cause_of_a_failed_conversion_is_looked_for() -> None:
    assert set(CAUSES) == set(KnownCause.__subclasses__())
