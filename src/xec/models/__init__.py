"""The network, file by file in the order of the data, and the composition root `build`."""
