"""Commands whose work is divided among processes or machines: part by part, each computed once."""
