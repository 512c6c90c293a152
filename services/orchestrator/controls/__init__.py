"""What operators ask for: submission, controls, marker files, watching."""
