"""Readers of files that others made, fed with damaged ones; see docs/reliability.md."""
