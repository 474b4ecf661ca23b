"""Running text: passages to predict, prompts to continue."""
