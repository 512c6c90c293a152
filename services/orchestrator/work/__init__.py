"""Building blocks of handlers: passes, transfers, verification, shutdown, jobs, pools, debts."""
