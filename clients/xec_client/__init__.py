"""The gRPC client, synchronous and asynchronous, and `xec reconstruct`. Never imports torch."""
