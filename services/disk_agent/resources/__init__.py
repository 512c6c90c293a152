"""Long-running work as resources: what transfers and conversions have in common."""
