"""What is asked, what is right, and what a hand-made thought would be."""
