"""What every process of v2c needs around gRPC, and nothing about what v2c does.

Transport security (`tls`, `pki`), addresses (`address`), servers (`server`), channels (`channel`),
the error model (`errors`), logging with redaction (`logging`, `redact`), metrics (`metrics`) and
processes (`processes`).
"""

import os

# Our children replace themselves by another program at once, so gRPC's fork handlers have nothing
# to protect; they would print a warning for each. gRPC reads this when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
