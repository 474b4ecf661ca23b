"""What a rollout earns."""
