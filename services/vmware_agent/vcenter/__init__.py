"""vCenter over pyVmomi: session, properties, tasks, and translation to the domain's types."""
