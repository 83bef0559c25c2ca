"""The wire format: `v1/reconstruction.proto` and the codec to and from events."""
