"""Speed, measured as ratios against psql in one run."""
