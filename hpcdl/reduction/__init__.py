"""When and how gradients are reduced: buckets, the reducer, error feedback."""
