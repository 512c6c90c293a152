"""The copy engine: one poll loop over the NBD connections to a source and a target."""
