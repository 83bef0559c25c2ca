"""Inference engines: one protocol, tensors of the contract in, tensors of the contract out."""
