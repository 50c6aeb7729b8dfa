"""The command line of HieraSurg: options in, one call of the core, its result out.

Nothing here computes. Modules of this package import torch, or anything that does, only inside a command
that runs.
"""
