"""What a model is told beside x_t and t: as extra channels, as an added embedding, through cross-attention."""
