"""Search for better parameters, and say honestly whether some were found."""
