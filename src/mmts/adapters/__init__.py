"""mmts's losses in other libraries' training loops (docs/plug-in.md); import the module for your library."""
