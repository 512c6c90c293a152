"""Pieces of stages: passes, transfers, verification, shutdown, CloudStack jobs, debts."""
