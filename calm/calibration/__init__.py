"""From a tolerance to a threshold, with a certificate. Arrays in, arrays out."""
