"""Reports: what runs and studies recorded, on one page that needs nothing else."""
