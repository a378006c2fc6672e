"""Search spaces, trials and studies of hyper-parameter searches."""
