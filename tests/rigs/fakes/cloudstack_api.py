"""A CloudStack API for unit tests: answers are prepared by command, calls are recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from services.cloudstack_agent.client.api import Parameters, Row

Answer = Row | Exception | Callable[[Parameters], Row]


class StubApi:
    """`CloudStackApi` that answers from a table. The last answer of a command is repeated."""

    endpoint = "http://stub/client/api"

    def __init__(self, answers: Mapping[str, Answer | list[Answer]]) -> None:
        self._answers = {
            command: list(answer) if isinstance(answer, list) else [answer]
            for command, answer in answers.items()
        }
        self.calls: list[tuple[str, dict[str, str]]] = []

    async def call(self, command: str, parameters: Parameters) -> Row:
        self.calls.append((command, dict(parameters)))
        queue = self._answers[command]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(parameters) if callable(answer) else answer

    def sent(self, command: str) -> list[dict[str, str]]:
        """The parameters of each call of `command`."""
        return [parameters for name, parameters in self.calls if name == command]


def pages(key: str, rows: list[Row]) -> Callable[[Parameters], Row]:
    """A list command's answers, cut by page and pagesize as CloudStack cuts them."""

    def answer(parameters: Parameters) -> Row:
        size, page = int(parameters["pagesize"]), int(parameters["page"])
        shown = rows[(page - 1) * size : page * size]
        return {"count": len(rows), key: shown} if shown else {}

    return answer
