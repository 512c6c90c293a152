"""The services of one host: starting, watching and ending them."""
