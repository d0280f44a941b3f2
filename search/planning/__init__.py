"""Before anything is trained: the space, the plan, and what is sampled next."""
