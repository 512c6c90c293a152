"""libvixDiskLib through ctypes, for v2c's nbdkit plugin.

It runs inside nbdkit, in the distribution's interpreter, so it uses the standard library only.
"""
