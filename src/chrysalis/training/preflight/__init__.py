"""Before the first step: check the run, measure the base model, settle what is measured, and print a summary."""
