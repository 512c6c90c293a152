"""What one simulated vCenter knows: inventory, machines, sessions, settings, faults, disks."""
