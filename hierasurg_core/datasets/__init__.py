"""Operations on disk become training data: frames, labels, clips and shards.

Nothing is imported here, so that the modules without torch stay without it.
"""
