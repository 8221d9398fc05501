"""Why a clip flickers, morphs or drifts, and what helps: it is made again with one part changed at a time.

`parts` lists what can be to blame, `stages` looks at finished latents and files, `run` makes the clips
through the runner of jobs, `findings` turns them into differences with intervals and into words, `report`
draws the page. `pixels` tells what can be told of a clip that nobody knows how to make again.
"""
