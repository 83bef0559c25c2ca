"""Who calls, and what they may do: TLS, client certificates, bearer tokens, rights."""
