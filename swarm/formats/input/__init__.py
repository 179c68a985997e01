"""Reading input files."""
