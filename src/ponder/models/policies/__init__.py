"""One policy for each way of answering."""
