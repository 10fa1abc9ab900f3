"""From a position of the training stream to a batch on the device."""
