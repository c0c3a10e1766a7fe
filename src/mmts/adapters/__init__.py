"""mmts's losses in other libraries' training loops; each module needs its library and is imported by itself.

docs/plug-in.md shows each.
"""
