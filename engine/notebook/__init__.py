"""What people use in a notebook; `import engine` gives all of it, and loads it when it is asked for."""
