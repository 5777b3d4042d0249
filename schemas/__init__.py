"""What crosses a border: simulation files, plans, summaries. Import a module by its name."""
