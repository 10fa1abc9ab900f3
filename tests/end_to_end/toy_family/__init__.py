"""A family of small models: residual convolutions on the grid."""
