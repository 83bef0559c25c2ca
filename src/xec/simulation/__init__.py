"""Simulated events (synthetic): shower, optics, electronics, dead maps; torch on any device."""
