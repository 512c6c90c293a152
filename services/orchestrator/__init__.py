"""The orchestrator: the state machine, its database, scheduling and audit events.

It touches no disk, vCenter or CloudStack itself; the agents do, through the ports in `ports`.
"""
