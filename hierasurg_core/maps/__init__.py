"""Panoptic maps: which pixel belongs to which entity, over a clip of frames.

`clip` holds the one currency, `PanopticClip`; `colours` turns ids into colours and back; `masks` owns the
pickle that labelling writes; `files` reads and writes everything on disk. numpy alone, no torch.

Legend: F frames, H rows, W columns, N colours, K entities of a clip. Ids 0..K-1 are entities, K is the
background, K+1 the black border around the endoscope's round view.
"""

from hierasurg_core.maps.clip import PanopticClip, fit_maps, normalise_levels, with_room
from hierasurg_core.maps.colours import (
    MAX_LEVELS,
    colour_map,
    decode_colours,
    palette_levels,
    palette_rgb_N3,
)
from hierasurg_core.maps.files import (
    describe_levels,
    load_clip,
    load_map_image,
    map_num_entities,
    save_clip,
    save_map_png,
)
from hierasurg_core.maps.numbering import Numbering, number_by_appearance

__all__ = [
    "MAX_LEVELS",
    "Numbering",
    "PanopticClip",
    "colour_map",
    "decode_colours",
    "describe_levels",
    "fit_maps",
    "load_clip",
    "load_map_image",
    "map_num_entities",
    "normalise_levels",
    "number_by_appearance",
    "palette_levels",
    "palette_rgb_N3",
    "save_clip",
    "save_map_png",
    "with_room",
]
