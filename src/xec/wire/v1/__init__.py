"""Version 1 of the wire format: the schema and the code generated from it."""
