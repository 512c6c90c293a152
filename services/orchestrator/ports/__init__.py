"""What the state machine needs from the three agents, in its own terms.

The adapters in `adapters/` implement these over gRPC, tests in memory. Every method may raise
`services.kit.failure.ServiceError`; `retryable` there decides whether a tick tries again by itself.
Every method is idempotent. Sizes and offsets are bytes.
"""
