"""What the workers do, one file each, named like its actor and its job."""
