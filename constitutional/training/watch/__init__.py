"""Watching an RL run for a policy that games its reward.

Who needs it: whoever leaves a run alone for hours, and whoever must say afterwards why the saved policy is that one.
Reward climbs on when a policy begins to exploit a preference model; what tells is a score that nothing was optimised
against (Gao et al. 2023; Coste et al. 2023), and what the answers look like: the paper's over-trained policy told
everybody that they are "valid, valued, and cared for" (Bai et al. 2022, section 4.3).

transformers' EarlyStoppingCallback needs an evaluation, a checkpoint a step and one metric; TRL's trainers evaluate by
the very reward they train on, from the random numbers that training uses. Here a probe draws from a stream of its own,
so that a watched run in which no rule fires ends in the same weights as one that nobody watched.

`phrases` finds what spread over answers, `figures` describes them, `rules` says which bound is broken, `probe` asks the
policy, `watcher` keeps the state of it all, `callback` ties it to TRL's trainers, `trackers` tells others.
"""
