"""Run anything that answers on a split, keep what it says, calibrate on it."""
