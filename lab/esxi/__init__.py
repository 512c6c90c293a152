"""The lab's ESXi data path: disks with snapshots and changed block tracking, served over NBD."""
