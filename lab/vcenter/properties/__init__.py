"""Properties of managed objects, each built only when somebody asks for it."""
