"""What every process of v2c needs to serve and call gRPC; it knows nothing of migrations.

Transport security (`tls`, `pki`), addresses (`address`), servers (`server`), channels (`channel`),
the error model (`errors`), logging with redaction (`logging`, `redact`), metrics (`metrics`) and
processes (`processes`).
"""

import os

# A child process of ours calls exec at once, so it needs none of gRPC's fork handlers, which would
# print a warning for each fork. gRPC reads this variable when it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
