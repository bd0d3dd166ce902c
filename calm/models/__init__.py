"""Networks, and weights from elsewhere."""
