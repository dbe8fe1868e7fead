"""Reports: the records of runs and studies on one page that needs no other file."""
