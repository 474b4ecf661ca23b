"""Running text: predict the next token of passages, or continue prompts."""
