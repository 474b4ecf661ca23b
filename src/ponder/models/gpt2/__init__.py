"""GPT-2 of our own: small and exact."""
