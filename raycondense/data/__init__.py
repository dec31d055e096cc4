"""The data room: from images on disk to batches of classes on the device.

`prepare` writes a data set once as a ``.beton`` file (FFCV's format) with a sidecar beside it; everything
else reads those two. This room knows no model. Import from the modules themselves: nothing is loaded here.
"""
