"""Training by several processes as if by one."""
