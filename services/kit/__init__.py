"""What every process of v2c needs around gRPC, and nothing about what v2c does.

Transport security (`tls`, `pki`), addresses (`address`), servers (`server`), channels (`channel`),
the error model (`errors`), logging with redaction (`logging`, `redact`), metrics (`metrics`) and
process supervision (`process`).
"""
