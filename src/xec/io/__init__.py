"""Files: events in, results out. Markers become validity bits here and nowhere else."""
