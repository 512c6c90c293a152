"""Processes: a service as a child (`service`), and any process of this host (`control`)."""
