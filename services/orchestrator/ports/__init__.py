"""The ports: what the state machine needs from the three agents.

The adapters in `adapters/` implement them over gRPC, tests in memory. Every method may raise
`services.kit.failure.ServiceError`, whose `retryable` decides whether the stage is retried.
Every method is idempotent. Sizes and offsets are bytes.
"""
