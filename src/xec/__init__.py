"""XEC Reconstruct: the core that the server, the clients and the training share."""

from importlib.metadata import version

__version__ = version("xec-reconstruct")
