"""The conventional methods that fill dead sensors: the baselines to beat."""
