"""What load a server holds: arrivals, senders, what they saw, and where the knee is.

`loadtest/openloop.py` measures latency against offered rate; `loadtest/locustfile.py` lets users of
all kinds loose on a server. Both run from the root of the repository.
"""
