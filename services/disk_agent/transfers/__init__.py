"""Transfers as resources of this agent: their records, their limits, the workers that run them."""
