"""vCenter over pyVmomi: session, properties, tasks, and its types as our values."""
