"""What people read first of a model: the card."""
