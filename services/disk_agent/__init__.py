"""The disk agent: everything v2c does on one storage host."""
