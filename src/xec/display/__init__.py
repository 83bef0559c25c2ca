"""Pictures of events and results (matplotlib)."""
