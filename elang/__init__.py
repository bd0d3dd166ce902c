"""E-LANG: each input goes to the cheapest model that is sure of it."""
