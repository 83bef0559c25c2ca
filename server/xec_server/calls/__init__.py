"""What stands around every call: gates, limits, refusals."""
