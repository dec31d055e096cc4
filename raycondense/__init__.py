"""raycondense: condense a labelled image dataset into a small generative model."""

__version__ = "0.1.0"
