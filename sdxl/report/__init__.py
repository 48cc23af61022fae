"""Views of records and of runs under way; a record is the truth, these only show it."""
