"""The best settings for these prompts: searched with Optuna, confirmed on prompts that the search never saw.

`declaration` reads what a file says, `search` makes the clips of each trial through the runner of jobs,
`choice` takes the winner and judges it on the kept-back prompts, `report` draws the page.
"""
