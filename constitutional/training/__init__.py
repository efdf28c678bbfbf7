"""The training stages: supervised fine-tuning, preference model, RL. Settings in, a saved merged folder out.

They run on TRL, but for PPO, which TRL has not (`ppo`), and soft labels, which its trainers do not know.

Each stage is a function of rows, folder paths and plain keywords; rows and results (`rows.py`) need no heavy library.
A stage either trains and says by how much, or raises `TrainingError`: TRL's silent no-ops do not pass as success.
"""
