"""Specs become migrations."""

import threading

from services.config import (
    Config,
    ConfigError,
    Problem,
    ResolvedVm,
    VmSpec,
    dump_spec,
    parse_specs,
    resolve,
)
from services.orchestrator.database.store import Store, add_event
from services.orchestrator.database.views import MigrationView
from services.orchestrator.errors import SpecInvalid
from services.orchestrator.stages import State

__all__ = ["Submission"]


class Submission:
    """Checks specs against this host's configuration and keeps them."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        # Two callers with the same machine make one migration of it, not two.
        self._submitting = threading.Lock()

    def check(self, text: str, source: str) -> tuple[VmSpec, ...]:
        """The machines of a spec. Raises ConfigError with every mistake in it."""
        specs = parse_specs(text, source)
        problems: list[Problem] = []
        for spec in specs:
            try:
                resolve(spec, self._config)
            except ConfigError as exc:
                problems.extend(exc.problems)
        if problems:
            raise ConfigError(tuple(problems))
        return specs

    def submit(self, text: str, source: str) -> tuple[MigrationView, ...]:
        """A migration per machine, in the order of the spec; nothing is kept if one is wrong.

        Raises SpecInvalid naming every mistake.
        """
        try:
            specs = self.check(text, source)
        except ConfigError as exc:
            raise SpecInvalid(message=str(exc)) from exc
        with self._submitting:
            existing = [self.open_migration(spec) for spec in specs]
            new = [
                (spec.vm.name, spec.vm.moref or "", dump_spec(spec))
                for spec, id_ in zip(specs, existing, strict=True)
                if not id_
            ]
            created = iter(self._store.create_all(new, source))
            return tuple(
                self._take_over(id_, dump_spec(spec), source) if id_ else next(created)
                for spec, id_ in zip(specs, existing, strict=True)
            )

    def open_migration(self, spec: VmSpec) -> str:
        """The id of the migration that exists for a machine, "" when none does."""
        return self._store.open_for(spec.vm.name, spec.vm.moref or "") or ""

    def read(self, text: str, source: str) -> ResolvedVm:
        """A stored spec against the present configuration.

        Raises SpecInvalid, for a config.yaml that no longer gives what the spec relies on.
        """
        try:
            return resolve(parse_specs(text, source or "spec")[0], self._config)
        except ConfigError as exc:
            raise SpecInvalid(message=str(exc)) from exc

    def _take_over(self, existing: str, text: str, source: str) -> MigrationView:
        state, known = self._store.spec_of(existing)
        if state is not State.DONE and known != text:
            with self._store.change(existing) as (session, migration):
                migration.spec, migration.spec_source = text, source
                add_event(
                    session,
                    self._store.clock,
                    migration,
                    "spec.changed",
                    f"{source} was taken over",
                )
        return self._store.get(existing)
