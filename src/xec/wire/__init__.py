"""The wire format: protocol buffers (`v1/reconstruction.proto`) and the codec to and from events."""
