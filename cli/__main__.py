"""``python -m cli`` is the v2c command."""

import sys

from cli.main import main

sys.exit(main())
