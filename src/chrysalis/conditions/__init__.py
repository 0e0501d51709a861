"""What a model may be conditioned on beside x_t and t, one kind a file in kinds/; how each kind enters the UNet."""
