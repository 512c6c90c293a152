"""The copy engine: one poll loop over a source and a target NBD connection."""
