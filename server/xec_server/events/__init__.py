"""From the events of a request to the messages that answer them."""
