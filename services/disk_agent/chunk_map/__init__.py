"""The durable record of which chunks of a disk are on the target, and with which digest."""
