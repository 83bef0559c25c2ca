"""Events that wait for the engine: bounded, by turns, never mixed up."""
