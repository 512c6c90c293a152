"""The lab's libvixDiskLib: a C library with VMware's ABI that reads the lab's disks."""
