"""``python -m services.orchestrator``."""

from services.orchestrator.server import main

raise SystemExit(main())
