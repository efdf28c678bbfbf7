"""What a trained model does on held-out prompts: refusals, text metrics, comparisons."""
