"""Programs that decode text for rollouts."""
