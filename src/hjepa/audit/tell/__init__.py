"""The report: one text per format, from the findings."""
