"""Networks: generator and codebook, discriminator, feature extractors, students."""

from raycondense.models.codebook import Codebook
from raycondense.models.convnet import ConvNet, Features, convnet_depth
from raycondense.models.discriminator import Discriminator
from raycondense.models.extractors import Extractor, build_extractor
from raycondense.models.generator import Generator
from raycondense.models.pool import ExtractorPool, NetworkTraining
from raycondense.models.students import STUDENTS, Student, build_student

__all__ = [
    "STUDENTS",
    "Codebook",
    "ConvNet",
    "Discriminator",
    "Extractor",
    "ExtractorPool",
    "Features",
    "Generator",
    "NetworkTraining",
    "Student",
    "build_extractor",
    "build_student",
    "convnet_depth",
]
