"""The CloudStack agent: placements, import, attachment and power in one CloudStack.

The agent speaks signed HTTP to one management server and keeps no state: the caller chooses a
job's id, and a repeated call first looks whether an earlier one had its effect already.
"""
