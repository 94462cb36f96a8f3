"""What the style task compares by: style images, loss networks, Gram matrices, preparations."""
