"""The state of a simulated vCenter: inventory, VMs, sessions, settings, faults, disks."""
