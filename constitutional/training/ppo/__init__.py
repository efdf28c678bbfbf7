"""Proximal policy optimisation for language models, our own: TRL has none.

The paper's recipe (Bai et al. 2022, after Stiennon et al. 2020 and Ziegler et al. 2019): the reward of a rollout comes
at its last token, at every token stands `-kl * (log p - log p_reference)`, a critic tells advantages (GAE, Schulman et
al. 2016), and policy and critic take a few clipped epochs over each batch of rollouts (Schulman et al. 2017).

`estimates` and `losses` are pure functions of tensors; `networks` holds policy, critic and reference, `rollouts` draws
and lays out, `update` is the epochs over one batch, `stage` the loop.
"""
