"""How a judge is asked: one module a mode, each a function from questions to what was said, in order.

`logprob`: the log-probabilities of the two options. `cot`: a reasoning is drawn first, then the options are read.
`vote`: verdicts are drawn and read as text, for models without log-probabilities. `score`: each answer is graded alone.
`model`: a trained preference model's scores. `feedback.judge` builds the questions and makes records of the answers.
"""
