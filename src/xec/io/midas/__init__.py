"""Files of the MIDAS data acquisition, read and written without MIDAS.

`layout` numbers and sizes of the format, `compression` and `stream` bytes, `event` one event and
its banks, `reader` one file, `runs` all files of a run, `readings` from banks to counts and times,
`event_file` a run as events, `writer`, `label` and `event_writer` the way back. Source: FACTS 7.
"""
