"""One script per question: `python -m benchmarks.<name>` runs it and appends a line to benchmarks/results/."""
