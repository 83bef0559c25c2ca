"""The model that answers, and the engine that runs it."""
