"""Panoptic maps out of videos: SAM 2 segments and propagates, features match, rules cull and merge.

Import what you need from the module that owns it; nothing here loads SAM 2 by itself.
"""
