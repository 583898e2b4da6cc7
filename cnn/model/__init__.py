"""What a model is: its network, and the `.keras` file that holds it."""
