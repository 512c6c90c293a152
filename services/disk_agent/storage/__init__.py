"""Storage pools of this host, and the images in them."""
