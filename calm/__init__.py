"""Confident Adaptive Language Modeling in JAX: https://arxiv.org/abs/2207.07061."""
