"""Where thoughts come from: sampled, searched, recorded, gold."""
