"""Small tasks, made by rules, whose problems can be checked by hand."""
