"""Training of the network: data, losses, loop, calibration."""
