"""From images to a run folder: the pipeline, resuming, sweeps and cost forecasts."""
