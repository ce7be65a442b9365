"""Speed comparisons: one script per question, each with its baselines and a correctness check before the timing."""
