"""RL post-training for diffusion language models that edit their own drafts.

The folders `rl/`, `rollout/`, `rewards/`, `recipes/` and `examples/` beside this one are linked here, so that they are
imported as parts of `redraft` and under no other name: `rl` and `rewards` are names that users' own folders bear.
"""
