"""The subcommands of v2c, one module per group."""
