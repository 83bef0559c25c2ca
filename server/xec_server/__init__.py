"""The gRPC server: settings, validation, batching, life cycle. Never imports torch."""
