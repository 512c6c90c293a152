"""Creates migrations from specs."""

import functools
import threading
from dataclasses import dataclass

from services.config import (
    Config,
    ConfigError,
    Problem,
    ResolvedVm,
    VmSpec,
    dump_spec,
    parse_specs,
    resolve,
    resolve_all,
)
from services.orchestrator.database.store import Store, add_event
from services.orchestrator.database.views import MigrationView
from services.orchestrator.errors import SpecInvalid
from services.orchestrator.stages import State

__all__ = ["Submission", "Submitted"]

# Every tick reads its migration's spec: the cache holds the specs of the largest fleet.
_SPECS_KEPT = 2048


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of a submission: one migration per machine, in the spec's order, and warnings."""

    migrations: tuple[MigrationView, ...]
    warnings: tuple[Problem, ...]


class Submission:
    """Checks specs against this host's configuration and stores them as migrations."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        # Of two callers that submit the same machine at once, the second finds the first's
        # migration.
        self._submitting = threading.Lock()
        self._resolved = functools.lru_cache(maxsize=_SPECS_KEPT)(self._resolve)

    def check(self, text: str, source: str) -> tuple[VmSpec, ...]:
        """The machines of a spec. Raises ConfigError with every mistake in it."""
        specs = parse_specs(text, source)
        resolve_all(specs, self._config)
        return specs

    def submit(self, text: str, source: str) -> Submitted:
        """Create or find a migration per machine; nothing is stored if the spec has a mistake.

        Raises SpecInvalid naming every mistake.
        """
        try:
            specs = self.check(text, source)
        except ConfigError as exc:
            raise SpecInvalid(exc.problems) from exc
        with self._submitting:
            existing = [self.open_migration(spec) for spec in specs]
            new = [
                (spec.vm.name, spec.vm.moref or "", dump_spec(spec))
                for spec, id_ in zip(specs, existing, strict=True)
                if not id_
            ]
            created = iter(self._store.create_all(new, source))
            migrations = tuple(
                self._adopt(id_, dump_spec(spec), source) if id_ else next(created)
                for spec, id_ in zip(specs, existing, strict=True)
            )
        return Submitted(migrations, tuple(item for spec in specs for item in spec.warnings))

    def open_migration(self, spec: VmSpec) -> str:
        """The id of the machine's migration that is under way or done, "" if there is none."""
        return self._store.open_for(spec.vm.name, spec.vm.moref or "") or ""

    def read(self, text: str, source: str) -> ResolvedVm:
        """A stored spec, resolved against the present configuration.

        Raises SpecInvalid if config.yaml no longer has a value that the spec needs.
        """
        try:
            return self._resolved(text, source or "spec")
        except ConfigError as exc:
            raise SpecInvalid(exc.problems) from exc

    def _resolve(self, text: str, source: str) -> ResolvedVm:
        return resolve(parse_specs(text, source)[0], self._config)

    def _adopt(self, existing: str, text: str, source: str) -> MigrationView:
        state, known = self._store.spec_of(existing)
        if state is not State.DONE and known != text:
            with self._store.change(existing) as (session, migration):
                migration.spec, migration.spec_source = text, source
                add_event(
                    session,
                    self._store.clock,
                    migration,
                    "spec.changed",
                    f"the spec is now that of {source}",
                )
        return self._store.get(existing)
