"""Transfers as resources of this agent: their records, their rate limits, their workers."""
