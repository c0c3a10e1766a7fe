"""From a split to batches: order, positives, loading ahead."""
