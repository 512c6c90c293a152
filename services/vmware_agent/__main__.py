"""``python -m services.vmware_agent``."""

import sys

from services.vmware_agent.server import main

sys.exit(main())
