"""Causal language models of Hugging Face, whole or with LoRA."""
