"""REST over the orchestrator's gRPC: authentication and translation, no rules of its own."""
