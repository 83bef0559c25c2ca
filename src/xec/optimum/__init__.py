"""How well anybody could do: bounds on any reconstruction, from the simulation's own light map."""
