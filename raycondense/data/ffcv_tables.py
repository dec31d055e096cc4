"""An ``ffcv.Loader`` whose start and memory do not grow with the file.

FFCV 1.0.2's own makes Python objects of every image, only to throw most of them away: 3.5 s and 750 MB at 1.28 million
images, in each process. What it compiles and runs afterwards is the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

BATCHES_AHEAD = 3


class PagesThemselves:
    """Takes the place of FFCV's table from each image to the pages that it lies on, where pages are asked for."""

    def __getitem__(self, page: np.uint64) -> tuple[np.uint64]:
        return (page,)


@cache
def _loader_type() -> type:
    """The class is made at use, because its base comes from FFCV, which may not be there."""
    from ffcv.loader import Loader
    from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
    from ffcv.memory_managers.process_cache import ProcessCacheManager
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.graph import Graph
    from ffcv.pipeline.pipeline_spec import PipelineSpec
    from ffcv.reader import Reader
    from ffcv.types import ALLOC_TABLE_TYPE, HeaderType

    class MappedReader(Reader):
        """Leaves both tables, 24 bytes an image each, in the page cache, which processes share."""

        def read_metadata(self) -> None:
            start = HeaderType.itemsize + self.field_descriptors.nbytes
            self.metadata = self._mapped(self.metadata_type, start)

        def read_allocation_table(self) -> None:
            self.alloc_table = self._mapped(ALLOC_TABLE_TYPE, int(self.header["alloc_table_ptr"]))

        def _mapped(self, kind: Any, start: int) -> np.ndarray:
            return np.memmap(self.file_name, kind, "r", start, (int(self.num_samples),)).view(np.ndarray)

    class MappedManager(OSCacheManager):
        """The operating system keeps the pages."""

        # Neither calls the base's constructor, which makes the tables.
        def __init__(self, reader: Any) -> None:
            self.reader, table = reader, by_place(reader.alloc_table)
            self.ptrs, self.sizes = table["ptr"], table["size"]
            self.context = OSCacheContext(self)

        def compile_reader(self) -> Any:
            # As FFCV's, but for columns of a table, whose numbers do not lie side by side.
            def read(address: Any, mem_state: Any) -> Any:
                size = mem_state[2][np.searchsorted(mem_state[1], address)]
                return mem_state[0][address : address + size]

            return Compiler.compile(read)

    class ProcessManager(ProcessCacheManager):
        """FFCV reads whole pages as they are needed. Nothing of the file is mapped."""

        def __init__(self, reader: Any) -> None:
            self.reader, table = reader, by_place(reader.alloc_table)
            self.ptrs, self.sizes = table["ptr"].copy(), table["size"].copy()
            reader.alloc_table = None
            self.sample_to_pages = PagesThemselves()

        def schedule_epoch(self, batches: list[np.ndarray]) -> Any:
            # FFCV looks up image after image, which takes longer than what was decoded ahead lasts.
            places = self.reader.metadata["f0"]["data_ptr"]
            page_bits = np.uint64(int(self.reader.page_size).bit_length() - 1)
            return super().schedule_epoch([np.unique(places[batch] >> page_bits) for batch in batches])

    class LeanLoader(Loader):
        """What FFCV's constructor makes for one field, without its tables of all images."""

        def __init__(self, path: str, operations: list[Any], *, workers: int, os_cache: bool) -> None:
            self.fname, self.num_workers, self.batches_ahead = path, workers, BATCHES_AHEAD
            self.batch_size, self.next_epoch, self.seed = 1, 0, 0
            self.distributed = self.drop_last = self.recompile = False
            self.code = None
            self.reader = (MappedReader if os_cache else Reader)(path)
            Compiler.set_num_threads(workers)
            self.memory_manager = (MappedManager if os_cache else ProcessManager)(self.reader)
            self.pipeline_specs = {"image": PipelineSpec("image", transforms=operations)}
            self.field_name_to_f_ix = {"image": 0, "label": 1}
            self.graph = Graph(
                self.pipeline_specs,
                self.reader.handlers,
                self.field_name_to_f_ix,
                self.reader.metadata,
                self.memory_manager.compile_reader(),
            )
            self.generate_code()

    return LeanLoader


def by_place(table: np.ndarray) -> np.ndarray:
    """FFCV's allocation table in the order of the places in the file, as it already is where we wrote it."""
    places, step = table["ptr"], 1 << 16  # compared in parts, which need no memory to speak of
    if all((np.diff(places[at : at + step + 1].astype(np.int64)) > 0).all() for at in range(0, len(places), step)):
        return table
    return table[np.argsort(places)]


def make_loader(path: str, operations: list[Any], *, workers: int, os_cache: bool) -> Any:
    """An ``ffcv.Loader`` of the field ``image`` of a beton that has been checked.

    Args:
        path: the beton.
        operations: FFCV's pipeline, the decoder first.
        workers: decoding threads.
        os_cache: leave caching to the operating system, or to FFCV.
    """
    return _loader_type()(path, operations, workers=workers, os_cache=os_cache)
