"""What a server tells of itself: metrics, traces, log lines. None of it ever fails a call."""
