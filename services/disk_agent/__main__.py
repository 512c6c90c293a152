"""``python -m services.disk_agent``."""

import sys

from services.disk_agent.server import main

sys.exit(main())
