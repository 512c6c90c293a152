"""The demo: two running VMs from the lab's vCenter to its CloudStack, and the proof.

The product runs as its users run it: ``v2c run`` in a process of its own, config and spec in
files, services apart from each other over mutual TLS. The demo prepares, watches and judges.
"""

# Before anything that imports gRPC: see there.
import services.kit  # noqa: F401
