"""SWEET: encoders that stop early for each example."""
