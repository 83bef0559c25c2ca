"""`xec daq`: events from a running data acquisition, kept in a spool until they are answered."""
