"""Operators' requests: submission, controls, marker files; and the streams of changes."""
