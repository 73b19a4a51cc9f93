"""The engine over many machines: replicas of the in-process engine, placed and looked after by Ray Serve.

Nothing outside this package imports Ray, and this package only when `engine=ray` is set (extra `lumiply[cluster]`).
"""
