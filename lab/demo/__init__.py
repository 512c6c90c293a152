"""The demo: migrates two running VMs from the lab's vCenter to its CloudStack, with a proof.

v2c runs as its users run it: ``v2c run`` in a process of its own, config and spec in files, and
the services in separate processes over mutual TLS. The demo prepares the lab and the files,
watches the migrations and checks the result.
"""

# Must be imported before anything that imports gRPC; services.kit explains why.
import services.kit  # noqa: F401
