"""How the auditor attaches to torch and leaves again without a trace."""
