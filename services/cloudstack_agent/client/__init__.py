"""CloudStack's API over signed HTTP, and its refusals as our errors."""
