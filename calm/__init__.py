"""Confident Adaptive Language Modeling in JAX: https://arxiv.org/abs/2207.07061."""

__version__ = '0.1.0'
