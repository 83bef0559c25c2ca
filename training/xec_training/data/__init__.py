"""Where training events come from: simulated on the fly, or read from files."""
