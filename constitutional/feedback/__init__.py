"""AI feedback: answers, critiques and revisions, judgments, labels, and the gate before training."""
