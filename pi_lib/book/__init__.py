"""What people see: `figures`, `explorers`, and the `runner` of the notebooks and the build."""
