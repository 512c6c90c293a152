"""The ports over gRPC: one module per agent, and the shared way to call."""
