"""Properties of managed objects, each built only when it is read."""
