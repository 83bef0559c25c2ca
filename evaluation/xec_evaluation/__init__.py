"""`xec evaluate`: how good a model is on files of events, beside the conventional methods."""
