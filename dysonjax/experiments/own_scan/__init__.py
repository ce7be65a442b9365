"""What a user's own `dysonjax.scan` has left on disk."""
