"""Trains any model with any loss."""
