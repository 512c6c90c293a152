"""What commands print: the live table, plain lines, summaries, JSON."""
