"""HieraSurg: surgical operations as controllable video.

The package holds everything but the command line (`hierasurg_cli`). Importing it loads nothing else;
each module imports what it needs, so that `import hierasurg_core.taxonomy` stays free of torch.
"""

__version__ = "0.1.0"
