"""The image of the volume at the horizon, its digests, and the job that folds into it."""
