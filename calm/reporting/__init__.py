"""What early exits cost and what they give: FLOPs, seconds, tables, curves, a page."""
