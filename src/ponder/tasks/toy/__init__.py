"""Small tasks on which thoughts can be watched."""
