"""The training stages on TRL: supervised fine-tuning, preference model, RL. Settings in, a saved merged folder out.

Each stage is a function of rows, folder paths and plain keywords; rows and results (`rows.py`) need no heavy library.
A stage either trains and says by how much, or raises `TrainingError`: TRL's silent no-ops do not pass as success.
"""
