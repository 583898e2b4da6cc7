"""What is computed and drawn of predictions."""
