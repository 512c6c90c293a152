"""``python -m services.cloudstack_agent --config CONFIG``."""

import sys

from services.cloudstack_agent.server import main

if __name__ == "__main__":
    sys.exit(main())
