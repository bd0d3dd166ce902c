"""Text in, features out, metrics back."""
