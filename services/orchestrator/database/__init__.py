"""The tables, their schema, and what is read from and written to them."""
