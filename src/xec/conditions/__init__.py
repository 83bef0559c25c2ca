"""Which sensors are dead: lists, and where they come from."""
