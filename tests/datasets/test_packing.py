import tracemalloc
import zlib

import numpy as np
import pytest

from hierasurg_core.datasets.packing import pack_map, unpack_map


@pytest.mark.parametrize("size_hw", [(16, 16), (48, 80), (24, 40)])
@pytest.mark.parametrize("ids", [1, 2, 256])
def test_maps_come_back(size_hw: tuple[int, int], ids: int) -> None:
    draws = np.random.default_rng(0)
    map_HW = draws.integers(0, ids, size_hw).astype(np.uint8)
    map_HW[:8] = 7
    back_HW = np.zeros(size_hw, np.uint8)
    unpack_map(pack_map(map_HW), back_HW)
    assert np.array_equal(back_HW, map_HW)


def test_flat_maps_take_next_to_nothing() -> None:
    map_HW = np.full((480, 720), 3, np.uint8)
    map_HW[100:300, 200:500] = 1
    assert len(pack_map(map_HW)) < 1000


def test_damaged_bytes_are_refused() -> None:
    packed = pack_map(np.random.default_rng(0).integers(0, 5, (16, 16)).astype(np.uint8))
    for data in (packed[:-3], b"", pack_map(np.zeros((8, 8), np.uint8))):
        with pytest.raises(ValueError, match=r"Error|buffer|shape|cut off"):
            unpack_map(data, np.zeros((16, 16), np.uint8))


def test_a_stream_of_gigabytes_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(1 << 28))
    tracemalloc.start()
    with pytest.raises(ValueError, match="cut off, or holds more than 261 bytes"):
        unpack_map(bomb, np.zeros((16, 16), np.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
