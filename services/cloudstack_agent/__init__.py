"""Everything that v2c asks of a CloudStack: placement, import, attachment, power.

The agent speaks signed HTTP to one management server and keeps no state: a job's id
is chosen by the caller, and what a lost answer had done is found again by looking.
"""
