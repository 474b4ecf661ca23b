"""Records, mathematics, processes: what every room above uses."""
