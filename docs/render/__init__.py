"""Pages that are rendered from the code: `python -m docs.render`, or `make docs`."""
