"""Before the first step: check the run, measure the base model, limit what is measured, and print a summary."""
