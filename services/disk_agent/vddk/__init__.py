"""libvixDiskLib through ctypes, for our nbdkit plugin.

Runs inside nbdkit, in the distribution's interpreter: standard library only.
"""
