"""What the numbers mean: rules, their findings, and the verdict."""
