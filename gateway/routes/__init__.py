"""The API's routes: each calls the orchestrator once or twice and translates what comes back."""

from typing import Annotated, Any

from fastapi import Depends, Request

from gateway.orchestrator import Orchestrator
from gateway.problems import PROBLEM_TYPE, ProblemDocument


def orchestrator_of(request: Request) -> Orchestrator:
    """The client the application was made with."""
    orchestrator: Orchestrator = request.app.state.orchestrator
    return orchestrator


FromOrchestrator = Annotated[Orchestrator, Depends(orchestrator_of)]


def problems(**meanings: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for errors: ``problems(_404="no such migration")`` and the usual ones."""
    usual = {
        "_401": "The admin token is missing or wrong.",
        "_502": "vCenter or CloudStack refused the login in config.yaml.",
        "_503": "The orchestrator, or a system behind it, cannot be reached now; repeat the call.",
    }
    content = {PROBLEM_TYPE: {"schema": ProblemDocument.model_json_schema(mode="serialization")}}
    return {
        int(code.removeprefix("_")): {"description": meaning, "content": content}
        for code, meaning in sorted((usual | meanings).items())
    }
