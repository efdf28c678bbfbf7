"""Constitutional AI: from a constitution to a trained, audited model, with every judgment traceable."""

__version__ = "0.1.0"
