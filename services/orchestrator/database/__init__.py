"""The tables, their schema versions, and the code that reads and writes them."""
