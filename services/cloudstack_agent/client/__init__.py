"""CloudStack's API over signed HTTP; its error codes are translated to this agent's errors."""
