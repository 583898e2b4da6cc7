"""What images are, and how they come in: pictures, folders, arrays, splits."""
