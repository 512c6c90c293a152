"""What the expert commands share: their spec, their output, their temporary folder."""
