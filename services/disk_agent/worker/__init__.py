"""The process that runs one transfer: its order, its source and target, its pass."""
