"""How published files are written: lines, delimited tables, records; for all readers."""
