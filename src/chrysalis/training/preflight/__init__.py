"""Before the first step: what a run will do, how the base model does, how long it takes and what it needs."""
