"""One transfer in a process of its own: its order, its source and target, its pass."""
